"""Every wire format keeps the contract: a bounded error, and nothing lost over many messages."""

import functools
import importlib
import inspect
import pkgutil
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jax_ssp as ssp
from jax_ssp import compression
from jax_ssp.compression import (
    ALL_COMPRESSORS,
    BFloat16,
    Compressor,
    Float16,
    Int8,
    RandK,
    Sign,
    TopK,
    compress,
    nbytes,
    residual_of,
)
from jax_ssp.compression.base import decode_leaves, encode_leaves
from jax_ssp.server.local_store import LocalStore
from jax_ssp.testing.compressors import COMPRESSOR_CHECKS


@dataclass(frozen=True)
class TopOfAll(Compressor):
    """The 3 largest numbers of the whole tree; only here, to try the seam with a format that is
    not one of single leaves."""

    for_snapshots = False

    def encode(self, tree):
        flat = jnp.concatenate(
            encode_leaves(lambda leaf: leaf.reshape(-1).astype(jnp.float32), tree)
        )
        _, places = jax.lax.top_k(jnp.where(jnp.isnan(flat), jnp.inf, jnp.abs(flat)), 3)
        return {"places": places, "values": flat[places]}

    def decode(self, message, like):
        sizes = [leaf.size for leaf in jax.tree.leaves(like)]
        flat = jnp.zeros(sum(sizes), message["values"].dtype)
        flat = flat.at[message["places"]].set(message["values"])
        parts = jnp.split(flat, np.cumsum(sizes)[:-1])
        return decode_leaves(lambda part, like: part.reshape(like.shape), parts, like)


@dataclass(frozen=True)
class Drawing(Compressor):
    """A random format with a key of its own, so that it is tried like all others."""

    inner: Compressor
    for_snapshots = False

    def encode(self, tree):
        return self.inner.encode(tree, jax.random.key(7))

    def decode(self, message, like):
        return self.inner.decode(message, like)


def bfloat16_in_numpy(x):
    """Round to nearest even on the bits of a float32."""
    bits = x.view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def float16_in_numpy(x):
    """11 bits each, of the exponents from 28 below the largest up."""
    mantissas, exponents = np.frexp(wide(x))
    rounded = np.ldexp(np.rint(mantissas * 2048), exponents - 11)
    _, above = np.frexp(max(np.abs(wide(x)).max(initial=0), np.finfo(np.float32).tiny))
    least = 2.0 ** (max(above - 1, -126 + 15) - 28)
    top = 2.0**above
    rounded = np.where(np.abs(rounded) == top, np.sign(x) * top * (1 - 2.0**-11), rounded)
    return np.where(np.abs(rounded) < least, 0, rounded).astype(np.float32)


def int8_in_numpy(x, block):
    decoded = []
    for part in np.split(x.reshape(-1), range(block, x.size, block)):
        scale = np.abs(part).max(initial=0) / np.float32(127)
        scale = (scale.view(np.int32) & ~np.int32(127)).view(np.float32)
        scale = np.float32(0) if scale < np.finfo(np.float32).tiny else scale
        values = np.rint(part / scale if scale else part * 0)
        decoded.append(values.astype(np.int8).astype(np.float32) * scale)
    return np.concatenate(decoded).reshape(x.shape)


def block_error(x, block):
    """The bound of Int8 on each number: a 254th of the largest of its block."""
    flat = np.abs(x.reshape(-1))
    parts = [np.full_like(p, p.max(initial=0)) for p in np.split(flat, range(block, x.size, block))]
    return np.concatenate(parts).reshape(x.shape) / 254


def top_k_in_numpy(x, tenths):
    """Definition 2.2 of Stich et al.: the k numbers that come first when sorted by magnitude."""
    flat = x.reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")[: count(x.size, tenths)]
    decoded = np.zeros_like(flat)
    decoded[order] = flat[order]
    return decoded.reshape(x.shape)


def count(size, tenths):
    """How many of so many numbers are that many tenths of them, rounded up."""
    return -(-size * tenths // 10)


def unsent(x, tenths):
    """The bound of TopK on each number: 0 if it is sent, itself if not; ties could be either."""
    magnitudes = np.abs(x)
    least = np.sort(magnitudes, axis=None)[::-1][count(x.size, tenths) - 1 :][:1]
    return np.where(magnitudes > least.sum() * (1 + 1e-6), 0, magnitudes)


def sign_in_numpy(x):
    """The compressor of Karimireddy et al.: sign(x) times the norm of order 1 over n."""
    scale = np.float32(np.linalg.norm(wide(x).reshape(-1), 1) / max(x.size, 1))
    return np.where(x < 0, -scale, scale)


def from_mean(x):
    """The bound of Sign on each number: how far its magnitude is from the mean one."""
    mean = np.abs(x).sum() / max(x.size, 1)
    return np.abs(np.abs(x) - mean) + 1e-6 * mean  # the mean travels as a float32


# A row for every format: how to make it, what arrives in NumPy, and the bound on its error.
ROWS = {
    "bfloat16": (BFloat16(), bfloat16_in_numpy, lambda x: np.abs(x) * 2.0**-8),
    "float16": (
        Float16(),
        float16_in_numpy,
        lambda x: np.maximum(np.abs(x) * 2.0**-11, 2.0**-28 * np.abs(x).max(initial=1e-30)),
    ),
    "int8": (Int8(), lambda x: int8_in_numpy(x, 256), lambda x: block_error(x, 256)),
    "int8, blocks of 7": (Int8(7), lambda x: int8_in_numpy(x, 7), lambda x: block_error(x, 7)),
    "top k": (TopK(), lambda x: top_k_in_numpy(x, 1), lambda x: unsent(x, 1)),
    "top k, 0.7": (TopK(0.7), lambda x: top_k_in_numpy(x, 7), lambda x: unsent(x, 7)),
    "sign": (Sign(), sign_in_numpy, from_mean),
}
FORMATS = {name: row[0] for name, row in ROWS.items()}
rows = pytest.mark.parametrize(("format", "numpy", "bound"), ROWS.values(), ids=ROWS)
formats = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
# The contract of error feedback holds for those to come, too.
EVERYONE = {
    "bfloat16": BFloat16(),
    "float16": Float16(),
    "rand k": Drawing(RandK()),
    "int8": Int8(),
    "top k": TopK(),
    "sign": Sign(),
    "top of all": TopOfAll(),
}
CONTRACT = {**EVERYONE, "rand k": RandK()}  # with the keys of a run
everyone = pytest.mark.parametrize("format", EVERYONE.values(), ids=EVERYONE)
# What compiles a lot is tried with three formats in the quick loop, and with all in CI.
compiled = pytest.mark.parametrize(
    "format",
    [
        pytest.param(format, marks=[] if number % 3 == 0 else [pytest.mark.slow])
        for number, format in enumerate(EVERYONE.values())
    ],
    ids=EVERYONE,
)

QUICK = settings(deadline=None, max_examples=25)
SHAPES = st.sampled_from([(), (0,), (1,), (6,), (7,), (3, 5), (1, 300)])  # few: each is compiled
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
ARRAYS = SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=NUMBERS))


@pytest.fixture(params=["float32", pytest.param("float64", marks=pytest.mark.slow)])
def first(request):
    """The widest dtype of the trees of a test, with 64 bits switched on where it needs them."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def normal(shape, seed=0, dtype="float32", scale=1.0):
    values = np.random.default_rng(seed).normal(size=shape) * scale
    return jnp.asarray(values.astype(jnp.dtype(dtype)))


def mixed(seed=0, first="float32", scale=1.0):
    """A tree of what there is: nested, of several dtypes, with a scalar and an empty leaf."""
    return {
        "layer": {
            "kernel": normal((20, 30), seed, first, scale),
            "bias": normal(300, seed + 1, "bfloat16", scale),
        },
        "other": (normal((), seed + 2, first, scale), None, normal((0, 3), seed, first)),
        "more": [normal((1, 300), seed + 3, "float16", scale)],
    }


@functools.cache
def compressing(format):
    """`compress` of this format, jitted; the same each time, so that it is compiled once."""
    return jax.jit(functools.partial(compress, format))


def wide(leaf):
    """In NumPy's float64, where sums and differences of what is sent are as good as exact."""
    return np.asarray(leaf).astype(np.float64)


def assert_same(tree, other):
    """Equal in structure, shapes, dtypes, and bit for bit."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, another in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert (leaf.shape, leaf.dtype) == (another.shape, another.dtype)
        assert np.asarray(leaf).tobytes() == np.asarray(another).tobytes()


def assert_same_but_for_sums(format, tree, other):
    """The same, bit for bit; where the format has a sum, whose order is the compiler's, nearly."""
    if not isinstance(format, Sign):
        assert_same(tree, other)
        return
    assert layout(tree) == layout(other)
    for leaf, another in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(wide(leaf), wide(another), rtol=1e-5, atol=1e-6)


def layout(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


@functools.cache
def encoding(format):
    return jax.jit(format.encode)


def round_trip(format, tree):
    """What arrives, all in one program: the harder case, since a compiler sees both ends."""
    return arriving(format)(tree)


@functools.cache
def arriving(format):
    return jax.jit(lambda tree: format.decode(format.encode(tree), like=tree))


# The contract


@pytest.mark.parametrize("check", COMPRESSOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("format", CONTRACT.values(), ids=CONTRACT)
@pytest.mark.every(17)
def test_it_keeps_the_contract(format, check, first):
    """What `ssp.testing.check_compressor` asks of any format."""
    check(format, 0)


# One message


def test_the_table_has_a_row_of_every_format_made_without_arguments():
    assert {type(format) for format in FORMATS.values()} == {*ALL_COMPRESSORS} - {RandK}
    made = {Drawing(format()) if format.random else format() for format in ALL_COMPRESSORS}
    assert made <= {*FORMATS.values(), *EVERYONE.values()}


def test_the_table_has_every_format_of_a_file_here():
    files = pkgutil.iter_modules(compression.__path__, "jax_ssp.compression.")
    modules = [importlib.import_module(file.name) for file in files]
    found = {
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Compressor) and not inspect.isabstract(each)
    }
    assert {*ALL_COMPRESSORS} == found


@rows
@QUICK
@given(ARRAYS)
@pytest.mark.every(11)
def test_what_arrives_is_what_numpy_says(format, numpy, bound, x):
    if isinstance(format, Sign):  # its mean is a sum, whose order is the compiler's
        assume(np.abs(wide(x)).sum() < 3.38e38 * x.size or x.size == 0)
        arrived = np.asarray(round_trip(format, jnp.asarray(x)))
        np.testing.assert_allclose(arrived, numpy(x), rtol=1e-6, atol=1e-36)
    else:
        np.testing.assert_array_equal(round_trip(format, jnp.asarray(x)), numpy(x))


@rows
@QUICK
@given(ARRAYS)
@pytest.mark.every(3)
def test_the_error_is_within_its_bound(format, numpy, bound, x):
    arrived = wide(round_trip(format, jnp.asarray(x)))
    x, limit = wide(x), bound(wide(x))
    small = 127 * float(np.finfo(np.float32).tiny)
    seen = np.isfinite(arrived)  # the top 0.4 % of float32's last binade rounds up to infinity
    assert np.all(seen | (np.abs(x) > 3.38e38))
    assert np.all((np.abs(arrived - x) <= limit * (1 + 1e-5) + small)[seen])


@rows
@pytest.mark.every(4)
def test_the_error_is_within_its_bound_in_every_dtype(format, numpy, bound, first):
    tree = mixed(first=first)
    arrived = compressing(format)(tree, residual_of(tree))[1]
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(arrived), strict=True):
        x, y = wide(leaf), wide(other)
        largest = np.maximum(np.abs(x), np.abs(y))
        half_ulp = largest * float(jnp.finfo(leaf.dtype).eps) / 2  # of the cast to the dtype
        assert np.all(np.abs(y - x) <= bound(x) * (1 + 1e-5) + half_ulp * 1.01)


@formats
def test_float64_leaves_take_no_more_bytes_unless_they_are_sent_as_they_are(format, x64):
    shapes = jax.eval_shape(format.encode, mixed(first="float64"))
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(shapes)}
    if isinstance(format, TopK):
        assert kinds == {"float64", "float32", "int32"}
    else:
        assert kinds <= {"bfloat16", "float16", "int8", "uint8", "int32", "float32"}


@compiled
@pytest.mark.every(3)
def test_numpy_leaves_will_do(format):
    tree = {"w": np.linspace(-1, 1, 9).astype(np.float32), "v": np.linspace(0, 1, 5)}
    same = jax.tree.map(jnp.asarray, tree)
    outcome = compress(format, tree, residual_of(tree))
    assert_same(outcome, compress(format, same, residual_of(same)))


@formats
def test_a_tree_without_leaves_will_do(format):
    assert compress(format, {"w": None}, residual_of({"w": None})) == ([], {"w": None}, {"w": None})


@compiled
@pytest.mark.every(3)
def test_jitted_or_not_it_is_the_same_to_the_last_bit(format, first):
    trees = [mixed(seed, first) for seed in (0, 10)]
    if first == "float64":  # the other leaves are as before; one by one, operations compile slowly
        trees = [tree["layer"]["kernel"] for tree in trees]
    _, _, residual = compressing(format)(trees[0], residual_of(trees[0]))
    tree = trees[1]
    outcome = compress(format, tree, residual)
    assert_same_but_for_sums(format, compressing(format)(tree, residual), outcome)


@everyone
@pytest.mark.every(7)
def test_the_same_again_is_the_same_and_needs_no_new_program(format, compilations):
    trees = [mixed(seed) for seed in (0, 10, 0)]
    residual = residual_of(trees[0])
    first = compressing(format)(trees[0], residual)
    compilations()
    other, again = (compressing(format)(tree, residual) for tree in trees[1:])
    assert compilations() == 0
    assert_same(first, again)
    assert not np.array_equal(first[1]["layer"]["kernel"], other[1]["layer"]["kernel"])


@formats
@pytest.mark.every(11)
def test_a_sharded_tree_gives_what_a_whole_one_does(format):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    tree = normal((40, 30))
    parts = jax.device_put(tree, sharding)
    assert residual_of(parts).sharding == sharding
    outcome = compressing(format)(parts, residual_of(parts))
    assert_same_but_for_sums(format, outcome, compressing(format)(tree, residual_of(tree)))


# Error feedback


@everyone
@pytest.mark.every(7)
def test_what_is_too_small_for_the_format_arrives_in_the_mean(format):
    if isinstance(format, Drawing):
        return  # with one key for all messages the same numbers would never be sent
    delta = jnp.array([1.0, 1.0 + 2.0**-11, 1e-3, -1e-3, 3e-4, 0.0])
    once = compressing(format)(delta, residual_of(delta))[1]
    assert not np.allclose(once, delta, rtol=1e-5, atol=0)

    def body(residual, _):
        _, decoded, residual = compress(format, delta, residual)
        return residual, decoded

    rounds = 4000
    residual, decoded = jax.lax.scan(body, residual_of(delta), length=rounds)
    mean = wide(decoded).mean(axis=0)
    # Of the bounded residual, a share of 1 / rounds is missing, and nothing else.
    np.testing.assert_allclose(mean, delta, rtol=0, atol=1e-3)
    np.testing.assert_allclose(mean + wide(residual) / rounds, delta, rtol=0, atol=4e-6)
    if isinstance(format, (BFloat16, Int8)):  # the residual is much smaller than what is sent
        np.testing.assert_allclose(mean, delta, rtol=0, atol=4e-6)


@rows
@pytest.mark.every(11)
def test_the_residual_stays_within_one_message_s_error(format, numpy, bound, first):
    """|e'| <= bound(x + e), however many messages went before."""
    for dtype in (first, "bfloat16"):

        def body(residual, tree):
            _, _, after = compress(format, tree, residual)
            return after, (residual, after)

        trees = normal((300, 500), dtype=dtype)
        _, (before, after) = jax.lax.scan(body, residual_of(trees[0]), trees)
        for tree, kept, left in zip(wide(trees), wide(before), wide(after), strict=True):
            total = tree + kept
            largest = np.maximum(np.abs(total), np.abs(total - left))
            rounding = largest * float(jnp.finfo(dtype).eps)
            assert np.all(np.abs(left) <= bound(total) * (1 + 1e-5) + rounding)


@compiled
@pytest.mark.every(3)
def test_it_runs_in_scan_and_vmap(format):
    trees = {"w": normal((6, 4, 70)), "b": normal((6, 5), dtype="bfloat16")}
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], trees) for i in range(6)]
    start = residual_of(each[0])

    def body(residual, tree):
        message, decoded, residual = compress(format, tree, residual)
        return residual, (message, decoded, residual)

    compare = functools.partial(assert_same_but_for_sums, format)
    _, scanned = jax.lax.scan(body, start, trees)
    outcomes = jax.vmap(functools.partial(compress, format))(trees, residual_of(trees))
    residual = start
    for number, tree in enumerate(each):
        outcome = compressing(format)(tree, residual)
        residual = outcome[2]
        compare(jax.tree.map(lambda leaf, n=number: leaf[n], scanned), outcome)
        alone = compressing(format)(tree, start)
        compare(jax.tree.map(lambda leaf, n=number: leaf[n], outcomes), alone)


def test_error_feedback_fixes_sign_sgd():
    """Counterexample 2 of Karimireddy et al.: without it, x[0] + x[1] never changes."""

    def step(state, _, feedback):
        x, residual = state
        difference, total = jnp.sign(x[0] - x[1]), jnp.sign(x[0] + x[1])
        slope = difference * jnp.array([1.0, -1.0]) + 0.5 * total  # of |x - y| + |x + y| / 2
        _, sent, residual = compress(Sign(), slope, residual)
        return (x - 0.01 * sent, residual if feedback else residual_of(x)), None

    def descend(feedback):
        start = jnp.array([1.005, 0.995])
        steps = functools.partial(step, feedback=feedback)
        return jax.lax.scan(steps, (start, residual_of(start)), length=400)[0][0]

    np.testing.assert_allclose(descend(feedback=False).sum(), 2, rtol=1e-5)
    np.testing.assert_allclose(descend(feedback=True), 0, atol=0.03)


# What each format is


@formats
@QUICK
@given(hnp.arrays(np.float32, 21, elements=st.floats(width=32)))
@pytest.mark.every(5)
def test_each_number_that_is_not_finite_arrives_as_one(format, x):
    arrived = np.asarray(round_trip(format, jnp.asarray(x)))
    assert not np.isfinite(arrived[~np.isfinite(x)]).any()
    if np.isfinite(x).all():
        assert np.all(np.isfinite(arrived) | (np.abs(x) > 3.38e38))


def test_a_number_that_is_not_finite_takes_only_its_block_with_it():
    good = normal(40)
    for bad in (np.nan, np.inf):
        broken = good.at[9].set(bad)
        there = np.asarray(round_trip(Int8(7), broken))
        assert np.flatnonzero(~np.isfinite(there)).tolist() == list(range(7, 14))
        np.testing.assert_array_equal(there[14:], round_trip(Int8(7), good)[14:])
        there = np.asarray(round_trip(BFloat16(), broken))
        np.testing.assert_array_equal(there, round_trip(BFloat16(), good).at[9].set(bad))


def test_infinities_keep_their_sign_in_bfloat16():
    x = jnp.array([np.inf, -np.inf, 3.4e38])
    assert round_trip(BFloat16(), x).tolist() == [np.inf, -np.inf, np.inf]


@pytest.mark.slow
def test_what_bfloat16_holds_arrives_unchanged_in_bfloat16():
    for dtype in (jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2):
        tree = normal(200, dtype=dtype)
        message, decoded, residual = compress(BFloat16(), tree, residual_of(tree))
        assert_same(decoded, tree)
        assert not residual.any()
        assert message[0].dtype == jnp.bfloat16


def test_the_bits_that_float16_has_more_are_kept_in_the_residual():
    tree = jnp.array([1 + 2.0**-10, 6e-8], jnp.float16)  # the second is subnormal in float16
    _, decoded, residual = compress(BFloat16(), tree, residual_of(tree))
    assert decoded.tolist() == [1.0, float(tree[1])]
    assert residual.tolist() == [2.0**-10, 0.0]


def test_ties_are_rounded_to_even():
    assert round_trip(BFloat16(), jnp.array([1 + 2**-8, 1 + 3 * 2**-8])).tolist() == [1, 1 + 2**-6]
    assert round_trip(Int8(), jnp.array([127.0, 0.5, 1.5, 2.5])).tolist() == [127, 0, 2, 2]


def test_float64_is_rounded_once(x64):
    # By way of float32 it would be a tie, and go down.
    assert round_trip(BFloat16(), jnp.array([1 + 2.0**-8 + 2.0**-40])).tolist() == [1 + 2.0**-7]


@pytest.mark.parametrize("size", [0, 1, 6, 7, 8, 21, 50])
@pytest.mark.every(5)
def test_int8_takes_a_byte_a_number_and_four_a_block(size):
    (message,) = encoding(Int8(7))(normal((1, size, 1)))
    assert layout(message)[1] == [((-(-size // 7),), jnp.float32), ((size,), jnp.int8)]
    assert nbytes(message) == size + 4 * -(-size // 7)


@QUICK
@given(hnp.arrays(np.float32, 21, elements=st.floats(width=32)))
def test_int8_values_never_go_beyond_127_and_their_products_are_exact(x):
    (message,) = encoding(Int8(7))(jnp.asarray(x))
    values = wide(message["values"]).reshape(3, 7)
    assert np.all(np.abs(values) <= 127)
    scales = wide(message["scales"])[:, None]
    arrived = wide(Int8(7).decode([message], like=x)).reshape(3, 7)
    finite = np.isfinite(x).reshape(3, 7).all(axis=1)
    np.testing.assert_array_equal(arrived[finite], (values[finite] * scales[finite]))
    assert np.isfinite(arrived[finite]).all()
    assert np.isnan(arrived[~finite]).all()


@pytest.mark.parametrize("largest", [0.0, -0.0, 1e-45, 1e-39, 1.2e-38, 1.4e-36])
def test_a_block_too_small_for_a_scale_arrives_as_zeros_and_is_kept(largest):
    delta = jnp.asarray(np.float32([largest, 0.0]))
    message, decoded, residual = compress(Int8(), delta, residual_of(delta))
    assert message[0]["scales"].tolist() == [0.0]
    assert decoded.tolist() == [0.0, 0.0]
    assert residual.tolist() == (delta + 0).tolist()  # JAX on a CPU takes a subnormal for 0


def test_a_block_of_zeros_is_not_divided_by_zero():
    with jax.debug_nans(True):
        assert Int8(2).decode(Int8(2).encode(jnp.zeros(3)), like=jnp.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("largest", [3.4028235e38, 3.4028233e38, -3.4028235e38, 1e-34])
def test_the_largest_and_smallest_blocks_stay_finite(largest):
    x = np.float32([largest, largest / 2, 0])
    np.testing.assert_allclose(round_trip(Int8(), jnp.asarray(x)), x, rtol=0.01)


def test_float64_beyond_the_range_of_a_scale(x64):
    x = jnp.array([1e-300, 0.0, 1e300, 1.0, 1.0, -0.3])
    np.testing.assert_allclose(round_trip(Int8(2), x), [0, 0, np.nan, np.nan, 1, -0.3], rtol=0.01)


# TopK


@pytest.mark.parametrize("tenths", [1, 7])
@QUICK
@given(ARRAYS)
@pytest.mark.every(2)
def test_top_k_keeps_its_share_of_the_square(tenths, x):
    """|x - C(x)|^2 <= (1 - k / n) |x|^2: Stich et al., lemma A.1."""
    arrived = wide(round_trip(TopK(tenths / 10), jnp.asarray(x)))
    x = wide(x)
    lost = 1 - count(x.size, tenths) / max(x.size, 1)
    assert ((x - arrived) ** 2).sum() <= lost * (x**2).sum() * (1 + 1e-12)


def test_what_top_k_sends_arrives_bit_for_bit_and_the_rest_is_kept(first):
    tree = {"w": normal((20, 30), dtype=first), "s": normal((), 1, first)}
    _, decoded, residual = compressing(TopK())(tree, residual_of(tree))
    for leaf, sent, kept in zip(*map(jax.tree.leaves, (tree, decoded, residual)), strict=True):
        leaf, sent, kept = map(np.asarray, (leaf, sent, kept))
        arrived = sent != 0
        assert arrived.sum() == count(leaf.size, 1)
        assert sent[arrived].tobytes() == leaf[arrived].tobytes()
        assert kept.tobytes() == np.where(arrived, 0, leaf).astype(kept.dtype).tobytes()


@pytest.mark.slow
def test_of_a_narrow_leaf_the_residual_keeps_what_the_dtype_cannot_hold():
    tree = jnp.ones(3, jnp.bfloat16)
    residual = jnp.array([0.5, 2.0**-10, 0.25])
    message, decoded, after = compress(TopK(0.5), tree, residual)
    assert message[0]["values"].tolist() == [1.5, 1.25]
    assert decoded.tolist() == [1.5, 0.0, 1.25]
    assert after.tolist() == [0.0, 1 + 2.0**-10, 0.0]
    _, decoded, after = compress(TopK(0.1), tree[:1], residual[1:2])
    assert (decoded.tolist(), after.tolist()) == ([1.0], [2.0**-10])


@pytest.mark.slow
def test_a_fraction_of_1_sends_every_bit_of_a_tree():
    tree = jnp.asarray(np.float32([-0.0, 1e-45, 3.4028235e38, 0.0, -1.1754944e-38, 1.5]))
    assert_same(round_trip(TopK(1), tree), tree)
    assert_same(TopK(1.0).decode(TopK(1.0).encode(tree), like=tree), tree)


def test_of_equal_magnitudes_the_first_are_sent():
    x = jnp.tile(jnp.array([1.0, -1.0]), 200)
    assert round_trip(TopK(), x).tolist() == [1, -1] * 20 + [0] * 360
    (message,) = jax.vmap(TopK().encode)(jnp.tile(x, (3, 1)))
    assert message["places"].tolist() == [list(range(40))] * 3
    assert message["values"].tolist() == [x[:40].tolist()] * 3


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_the_first_to_be_sent(bad, first):
    x = normal((30,), dtype=first, scale=1e30).at[17].set(bad)
    arrived = np.asarray(round_trip(TopK(), x))
    largest = np.argsort(-np.abs(np.delete(np.asarray(x), 17)))[:2]
    largest = largest + (largest >= 17)
    assert set(np.flatnonzero(arrived)) == {17, *largest.tolist()}
    np.testing.assert_array_equal(arrived[17], bad)


@pytest.mark.slow
def test_where_all_that_was_sent_is_not_finite_the_rest_arrives_as_nans():
    x = normal((40,))
    some, many = x.at[:3].set(np.nan), x.at[:5].set(np.inf)
    assert np.isfinite(round_trip(TopK(), some)).sum() == 37
    arrived = np.asarray(round_trip(TopK(), many))
    assert arrived[:4].tolist() == [np.inf] * 4
    assert np.isnan(arrived[4:]).all()
    _, _, residual = compress(TopK(), many, residual_of(many))
    assert not residual.any()


@pytest.mark.parametrize(
    ("fraction", "size", "sent"),
    [
        (0.1, 0, 0),
        (0.1, 1, 1),
        (0.1, 10, 1),
        (0.1, 11, 2),
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001
        (1e-05, 100, 1),
        (1, 7, 7),
        (np.float64(0.5), 7, 4),
    ],
)
def test_top_k_takes_8_bytes_for_each_number_it_sends(fraction, size, sent):
    (message,) = jax.eval_shape(TopK(fraction).encode, normal((1, size, 1)))
    assert layout(message)[1] == [((sent,), jnp.int32), ((sent,), jnp.float32)]
    assert sorted(message) == ["places", "values"]
    assert nbytes(message) == 8 * sent


def test_a_leaf_with_more_numbers_than_an_int32_can_count_is_refused():
    with pytest.raises(ValueError, match="int32"):
        jax.eval_shape(TopK().encode, jax.ShapeDtypeStruct((2**31 + 1,), jnp.float32))


def test_a_message_of_another_fraction_is_refused():
    message = TopK(0.5).encode(jnp.ones(9))
    with pytest.raises(
        ValueError, match=r"5 values and 5 places where `like` has 1 of 9; .* here 0\.1, of"
    ):
        TopK().decode(message, like=jnp.ones(9))
    for part, said in (("places", "5 values and 4 places"), ("values", "4 values and 5 places")):
        short = {**message[0], part: message[0][part][:4]}
        with pytest.raises(ValueError, match=rf"{said} where `like` has 5 of 9"):
            TopK(0.5).decode([short], like=jnp.ones(9))


@pytest.mark.parametrize("fraction", ["x", "0.1", [], True, 0.1j])
def test_a_fraction_that_is_no_number_is_refused(fraction):
    with pytest.raises(TypeError, match=r"`TopK\(fraction=\.\.\.\)` must be a number, got "):
        TopK(fraction)


@pytest.mark.parametrize("fraction", [0, 0.0, -0.1, 1.5, 2, np.nan, np.inf])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(
        ValueError,
        match=rf"`TopK\(fraction=\.\.\.\)` must be above 0 and at most 1, got {fraction}\.$",
    ):
        TopK(fraction=fraction)


# Sign


@QUICK
@given(ARRAYS)
def test_sign_loses_what_its_paper_says(x):
    """|x - C(x)|^2 = (1 - |x|_1^2 / (n |x|_2^2)) |x|^2: Karimireddy et al."""
    arrived = wide(round_trip(Sign(), jnp.asarray(x)))
    assume(np.isfinite(arrived).all())
    x = wide(x)
    square = (x**2).sum()
    expected = square - np.abs(x).sum() ** 2 / max(x.size, 1)
    smallest = 2 * x.size * float(np.finfo(np.float32).tiny)  # below it the mean may arrive as 0
    limit = 1e-5 * square + x.size * smallest**2
    np.testing.assert_allclose(((x - arrived) ** 2).sum(), expected, rtol=0, atol=limit)


def test_a_leaf_too_small_for_a_mean_arrives_as_zeros_and_is_kept():
    delta = jnp.full(6, float(np.finfo(np.float32).tiny))
    message, decoded, residual = compress(Sign(), delta, residual_of(delta))
    assert float(message[0]["scale"]) == 0.0
    assert decoded.tolist() == [0.0] * 6
    assert residual.tolist() == delta.tolist()


def test_signs_are_packed_8_a_byte_and_that_of_0_is_positive(first):
    x = jnp.asarray([0.0, -0.0, 1.0, -1.0, -2.0, 2.0, 3.0, -3.0, -6.0], first)
    (message,) = encoding(Sign())(x)
    assert [f"{byte:08b}" for byte in message["signs"].tolist()] == ["11100110", "00000000"]
    assert (message["scale"].dtype, float(message["scale"])) == (jnp.float32, 2.0)
    arrived = Sign().decode([message], like=x)
    assert arrived.dtype == first
    assert arrived.tolist() == [2, 2, 2, -2, -2, 2, 2, -2, -2]


def test_the_scale_arrives_unrounded(first):
    x = normal((37,), dtype=first)
    (message,) = encoding(Sign())(x)
    arrived = wide(jax.jit(lambda m: Sign().decode(m, like=x))([message]))
    np.testing.assert_array_equal(np.abs(arrived), wide(message["scale"]))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 300])
def test_sign_takes_a_bit_a_number_and_four_bytes_a_leaf(size):
    (message,) = jax.eval_shape(Sign().encode, normal((1, size, 1)))
    assert layout(message)[1] == [((), jnp.float32), ((-(-size // 8),), jnp.uint8)]
    assert nbytes(message) == -(-size // 8) + 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_leaf_with_a_number_that_is_not_finite_arrives_as_nans(bad):
    tree = {"a": normal((9,)).at[4].set(bad), "b": normal((9,), 1)}
    arrived = round_trip(Sign(), tree)
    assert np.isnan(arrived["a"]).all()
    np.testing.assert_allclose(arrived["b"], sign_in_numpy(np.asarray(tree["b"])), rtol=1e-6)


@pytest.mark.slow
def test_the_mean_of_large_numbers_is_finite():
    for size in (1, 6, 7, 300):
        x = jnp.full(size, 3.3e38).at[0].multiply(-1)
        np.testing.assert_allclose(round_trip(Sign(), x), x, rtol=1e-6)


@pytest.mark.slow
def test_a_mean_beyond_float32_arrives_as_nans(x64):
    x = jnp.array([1e300, 1.0])
    assert np.isnan(round_trip(Sign(), x)).all()
    _, _, residual = compress(Sign(), x, residual_of(x))
    assert residual.tolist() == [0.0, 0.0]


def test_a_leaf_of_zeros_arrives_as_zeros():
    with jax.debug_nans(True):
        for size in (0, 1, 9):
            x = jnp.zeros(size)
            arrived = np.asarray(Sign().decode(Sign().encode(x), like=x))
            assert arrived.tobytes() == np.zeros(size, np.float32).tobytes()


@everyone
@pytest.mark.every(5)
def test_roundings_are_out_of_the_reach_of_excess_precision(format):
    """XLA may leave out a cast to fewer bits that is undone later, and does so on some backends."""

    def barriers(function, *args):
        return str(jax.make_jaxpr(function)(*args)).count("optimization_barrier")

    for dtype, narrow in (("float32", 0), ("float16", 1), ("bfloat16", 1)):
        tree = normal(9, dtype=dtype)
        message = format.encode(tree)
        # A barrier behind a cast to a narrow dtype; behind the message, and behind what arrives.
        assert barriers(lambda m, like=tree: format.decode(m, like), message) == narrow
        run = functools.partial(compress, format)
        assert barriers(run, tree, residual_of(tree)) == 2 + narrow
    assert "reduce_precision" in str(jax.make_jaxpr(BFloat16().encode)(tree))


# Bytes, errors, documentation


def test_bytes_on_the_wire():
    tree = {"w": normal((100, 256)), "b": normal(10)}
    sizes = {}
    for name, format in FORMATS.items():
        message = encoding(format)(tree)
        shapes = jax.eval_shape(format.encode, tree)
        sizes[name] = nbytes(message)
        assert nbytes(shapes) == sizes[name] == sum(x.nbytes for x in jax.tree.leaves(message))
    assert nbytes(tree) == 102440
    assert sizes == {
        "bfloat16": 51220,
        "float16": 51220 + 4 * 2,
        "int8": 25610 + 4 * 101,
        "int8, blocks of 7": 25610 + 4 * (3658 + 2),
        "top k": 8 * (2560 + 1),
        "top k, 0.7": 8 * (17920 + 7),
        "sign": 3200 + 2 + 4 * 2,
    }
    assert nbytes([]) == 0


@everyone
@pytest.mark.parametrize("leaf", [jnp.arange(3), jnp.ones(3, bool)])
@pytest.mark.every(7)
def test_what_is_not_floating_point_is_refused_by_its_path(format, leaf):
    tree = {"a": jnp.ones(2), "n": [leaf]}
    message = rf"`(tree|like)\['n'\]\[0\]` is {leaf.dtype}; only floating-point arrays"
    with pytest.raises(TypeError, match=message):
        residual_of(tree)
    with pytest.raises(TypeError, match=message):
        format.encode(tree)
    with pytest.raises(TypeError, match=message):
        compress(format, tree, {"a": jnp.zeros(2), "n": [jnp.zeros(3)]})
    good = {"a": jnp.ones(2), "n": [jnp.ones(3)]}
    with pytest.raises(TypeError, match=message):
        format.decode(format.encode(good), like=tree)


@everyone
@pytest.mark.parametrize(
    "residual",
    [
        {"w": jnp.zeros(3)},
        {"w": jnp.zeros((1, 3)), "b": jnp.zeros(())},
        {"w": jnp.zeros(1), "b": jnp.zeros(())},
        {"w": jnp.zeros(3, jnp.bfloat16), "b": jnp.zeros(())},
        [jnp.zeros(()), jnp.zeros(3)],
    ],
)
def test_a_residual_that_does_not_fit_is_refused(format, residual):
    tree = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(())}
    with pytest.raises(ValueError, match=r"`residual` does not fit `tree`.*`residual_of\(tree\)`"):
        compress(format, tree, residual)


@formats
@pytest.mark.every(11)
def test_a_message_of_something_else_is_refused(format):
    message = format.encode({"w": jnp.ones((3, 4)), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match="the message holds 2 leaves, `like` has 1"):
        format.decode(message, like={"w": jnp.ones((3, 4))})
    with pytest.raises(ValueError, match=r"the message holds .* where `like` has"):
        format.decode(message, like={"w": jnp.ones((3, 50)), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"the message holds .* where `like` has"):
        format.decode(message, like={"w": jnp.ones((3, 4)), "b": jnp.ones(20)})


def test_a_message_of_another_block_is_refused():
    message = Int8(4).encode(jnp.ones(9))
    with pytest.raises(
        ValueError, match=r"9 values in 3 blocks where `like` has 9 in 2; .* here 8"
    ):
        Int8(8).decode(message, like=jnp.ones(9))


@pytest.mark.parametrize("block", [2.0, "256", None, True])
def test_a_block_that_is_no_integer_is_refused(block):
    with pytest.raises(TypeError, match=r"`Int8\(block=\.\.\.\)` must be an integer, got"):
        Int8(block)


@pytest.mark.parametrize("block", [0, -1])
def test_a_block_without_numbers_is_refused(block):
    with pytest.raises(
        ValueError, match=rf"`Int8\(block=\.\.\.\)` must be at least 1, got {block}"
    ):
        Int8(block)


def test_a_format_is_a_frozen_value():
    assert Int8(7) == Int8(block=7) != Int8()
    assert hash(Int8(7)) == hash(Int8(7))
    assert repr(Int8()) == "Int8(block=256)"
    assert TopK(0.5) == TopK(fraction=0.5) != TopK()
    assert hash(TopK(0.5)) == hash(TopK(0.5))
    assert [repr(TopK()), repr(Sign())] == ["TopK(fraction=0.1, k=None)", "Sign()"]
    with pytest.raises(AttributeError):
        Int8().block = 3
    with pytest.raises(AttributeError):
        TopK().fraction = 1
    with pytest.raises(TypeError, match="abstract"):
        Compressor()


@pytest.mark.parametrize(
    "thing",
    [*ALL_COMPRESSORS, Compressor, compress, nbytes, residual_of],
    ids=lambda thing: thing.__name__,
)
def test_it_is_documented(thing):
    assert "Example:" in inspect.getdoc(thing)
    if thing in ALL_COMPRESSORS or thing is compress:
        assert "Reference:" in inspect.getdoc(thing)
        assert "arXiv:" in inspect.getdoc(thing)


def test_the_oracle_of_bfloat16_is_the_one_of_others():
    x = np.random.default_rng(0).normal(size=999).astype(np.float32)
    other = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(bfloat16_in_numpy(x), other)


# How many a sparse format sends.


@pytest.mark.parametrize(
    "most", [300, pytest.param(2000, marks=pytest.mark.slow)], ids=lambda most: f"n <= {most}"
)
def test_a_fraction_of_k_over_n_sends_k(most):
    """Whatever the division left of it; and a decimal sends as many as it says."""
    for n in range(1, most + 1):
        for k in range(1, n + 1):
            assert TopK(fraction=k / n).count(n) == k
    for n in (100, 1000, 2000):
        for percent in range(1, 101):
            assert TopK(fraction=float(f"0.{percent:02}") if percent < 100 else 1.0).count(n) == (
                -(-n * percent // 100)
            )


@pytest.mark.parametrize("kind", [TopK, RandK])
@pytest.mark.every(2)
def test_a_number_is_sent_of_each_leaf_and_of_a_smaller_one_all(kind):
    tree = {"a": jnp.arange(1.0, 10.0), "b": jnp.ones(2), "c": jnp.zeros(0), "d": jnp.ones(())}
    drawn = (jax.random.key(0),) if kind.random else ()
    message = kind(k=3).encode(tree, *drawn)
    assert [part["values"].size for part in message] == [3, 2, 0, 1]
    decoded = kind(k=3).decode(message, like=tree)
    assert_same(decoded["b"], tree["b"])
    assert_same(decoded["d"], tree["d"])
    assert np.count_nonzero(decoded["a"]) == 3
    with pytest.raises(ValueError, match=r"takes `fraction` or `k`, not both.*set the other to N"):
        kind(0.5, 3)
    with pytest.raises(ValueError, match=rf"`{kind.__name__}\(k=...\)` must be at least 1, got 0"):
        kind(k=0)
    with pytest.raises(ValueError, match="decode with the shapes and the `k`, here 2, of the enc"):
        kind(k=2).decode(message, like=tree)
    assert kind() == kind(0.1)


# float16.


@pytest.mark.parametrize("size", [7e4, 1e10, 3.4028e38, 1e-10, 1e-30])
def test_float16_neither_overflows_nor_underflows(size):
    """65504 is where it ends, and 6e-5 where it begins to lose bits."""
    x = {"w": jnp.asarray(np.float32(size) * np.float32([1.0, -0.7, 2.0**-10, 1.0 / 3.0]))}
    decoded = round_trip(Float16(), x)
    np.testing.assert_allclose(decoded["w"], x["w"], rtol=2.0**-11)
    with np.errstate(over="ignore"):
        plain = np.asarray(x["w"]).astype(np.float16).astype(np.float32)
    assert not np.allclose(plain, x["w"], rtol=2.0**-11, atol=0)


# Random formats.


@pytest.mark.slow
def test_places_are_drawn_anew_with_each_key_and_all_have_their_turn():
    tree = {"w": jnp.arange(1.0, 21.0)}
    draw = jax.jit(lambda key: RandK(k=5).decode(RandK(k=5).encode(tree, key), like=tree)["w"])
    sent = np.array([np.asarray(draw(jax.random.key(seed))) != 0 for seed in range(400)])
    assert (sent.sum(1) == 5).all()
    share = sent.mean(0)  # each a mean of 400 draws of chance 1/4: 5 standard errors
    assert (np.abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 400)).all()
    assert_same(draw(jax.random.key(3)), draw(jax.random.key(3)))
    two = {"a": tree["w"], "b": tree["w"]}  # leaves have keys of their own
    decoded = RandK(k=5).decode(RandK(k=5).encode(two, jax.random.key(0)), like=two)
    assert not np.array_equal(decoded["a"], decoded["b"])


def test_rand_k_takes_half_the_bytes_of_top_k():
    shapes = jax.eval_shape(RandK(0.5).encode, {"w": jnp.ones(1000)}, jax.random.key(0))
    assert nbytes(shapes) == 4 * 500 + 4
    assert nbytes(jax.eval_shape(TopK(0.5).encode, {"w": jnp.ones(1000)})) == 8 * 500


def test_a_random_format_without_a_key_is_refused():
    tree = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"`compress\(key=...\)`: RandK.* draws random numbers"):
        compress(RandK(), tree, residual_of(tree))


@pytest.mark.parametrize("runtime", ["virtual", "batch", "devices"])
@pytest.mark.slow
def test_a_run_draws_by_worker_and_clock_and_replays_bit_for_bit(runtime):
    def loss(params, batch, key):
        return jnp.sum((params["w"] - batch) ** 2), {}

    step = ssp.make_step(loss, optax.sgd(0.05))
    spec = {
        "params": {"w": jnp.zeros(10)},
        "data": lambda worker: iter([np.float32(worker + 1)] * 99),
        "policy": ssp.SSP(2),
        "num_clocks": 40,
        "delta_wire": RandK(k=5),
    }
    runtimes = {
        "virtual": ssp.Virtual(3, ssp.delays.Exponential()),
        "batch": ssp.Virtual(3, ssp.delays.Exponential(), batch=3),
        "devices": ssp.Devices(num_workers=3),
    }
    result = ssp.train(step, **spec, runtime=runtimes[runtime])
    again = ssp.train(step, **spec, runtime=ssp.Replay(result.tape))
    assert_same(again.params, result.params)
    np.testing.assert_allclose(result.params["w"], 2.0, atol=0.3)
    other = ssp.train(step, **spec, runtime=runtimes["virtual"], seed=1)
    assert not np.array_equal(other.params["w"], result.params["w"])
    # Workers and clocks differ in what they draw: after one clock, in what each has left.
    one = ssp.train(step, **{**spec, "num_clocks": 1}, runtime=ssp.Virtual(3))
    left = [np.asarray(jax.tree.leaves(each)[0]) == 0 for each in one.residuals]
    assert len({mask.tobytes() for mask in left}) > 1


def test_a_random_snapshot_wire_is_refused():
    with pytest.raises(ValueError, match=r"draws random numbers.*use it as `delta_wire`"):
        LocalStore(ssp.Server({"w": jnp.ones(3)}), snapshot_wire=RandK())


@everyone
def test_a_number_too_large_for_float32_is_refused(format):
    with pytest.raises(ValueError, match=r"`tree` must hold numbers of at most .*, got 1e\+300"):
        format.encode({"w": 1e300})
