"""Every wire format keeps the contract: of one message, a bounded error, bytes and values."""

import functools
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jax_ssp import compression
from jax_ssp.compression import (
    ALL_COMPRESSORS,
    BFloat16,
    Compressor,
    Int8,
    RandK,
    Sign,
    TopK,
    compress,
    nbytes,
    residual_of,
)
from jax_ssp.testing.compressors import COMPRESSOR_CHECKS
from tests.helpers.formats import (
    ARRAYS,
    CONTRACT,
    EVERYONE,
    FORMATS,
    QUICK,
    Drawing,
    assert_same,
    assert_same_but_for_sums,
    compiled,
    compressing,
    encoding,
    everyone,
    formats,
    mixed,
    normal,
    round_trip,
    rows,
)
from tests.helpers.formats_in_numpy import wide

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


@formats
@QUICK
@given(hnp.arrays(np.float32, 21, elements=st.floats(width=32)))
@pytest.mark.every(5)
def test_each_number_that_is_not_finite_arrives_as_one(format, x):
    arrived = np.asarray(round_trip(format, jnp.asarray(x)))
    assert not np.isfinite(arrived[~np.isfinite(x)]).any()
    if np.isfinite(x).all():
        assert np.all(np.isfinite(arrived) | (np.abs(x) > 3.38e38))


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


# Bytes, values, documentation


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
