"""The byte language model: what a transformer must be, and what its numbers are of."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from experiments.workloads import lm
from experiments.workloads import transformer as net

BATCH, TIME = 4, 16
# Half the time to compile, and the programs here run once.
QUICK = {"xla_backend_optimization_level": 0}

pytestmark = pytest.mark.usefixtures("standard_promotion")


def small(**changed):
    shape = {"layers": 2, "width": 32, "heads": 4, "groups": 2, "hidden": 48}
    return net.Shape(**{**shape, **changed})


def tokens(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (BATCH, TIME)).astype(np.uint8)


@functools.cache
def step_of(**how):
    model = net.Transformer(small(), net.Computing(**{"dtype": "float32", **how}), nnx.Rngs(0))
    return ssp.make_nnx_step(model, lm.loss, optax.sgd(0.1))


@functools.cache
def program(**how):
    """(params, bytes) -> what they come to: one program, which the tests here share."""
    step = step_of(**how)

    def run(params, batch):
        model = step.model(params)
        delta, _, metrics = step(params, step.init(params), batch, jax.random.key(0))
        logits = model(batch.astype(jnp.int32))
        shifted = model(jnp.pad(batch, ((0, 0), (1, 0)))[:, :-1].astype(jnp.int32))
        each = {"nats": lm.nats(model, batch), "logits": logits, "shifted": shifted}
        return {"delta": delta, "loss": metrics["loss"], **each}

    return jax.jit(run, compiler_options=QUICK)


def computed(seed=0, **how):
    return program(**how)(step_of(**how).params, tokens(seed))


def agree(found, wanted, rtol):
    assert found.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, rtol=rtol, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_no_byte_is_told_of_those_after_it():
    batch = tokens(0)
    batch[:, 9:] = tokens(1)[:, 9:]
    one, other = computed()["logits"], program()(step_of().params, batch)["logits"]
    np.testing.assert_array_equal(one[:, :9], other[:, :9])
    assert (np.abs(one - other)[:, 9:].max(axis=-1) > 1e-3).all()


def test_the_loss_of_a_byte_is_that_of_predicting_it_by_those_before():
    """Not by itself: the inputs are those one place earlier, a zero before the first."""
    found = computed()
    logits = np.asarray(found["shifted"], np.float64)
    log_odds = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    wanted = -np.take_along_axis(log_odds, tokens()[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(found["nats"], wanted, rtol=1e-5)
    assert float(found["loss"]) == pytest.approx(wanted.mean(), rel=1e-5)


def test_the_first_loss_is_that_of_a_guess():
    assert float(computed()["loss"]) == pytest.approx(math.log(256), rel=0.01)


def test_rotary_positions_see_distances_alone():
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=8).astype(np.float32) for _ in range(2))
    both = np.stack([query, key])[:, None, None, :].repeat(12, axis=1)
    queries, keys = np.asarray(net.rotated(jnp.asarray(both)))[:, :, 0]
    products = queries @ keys.T
    for distance in (-3, 0, 5):
        same = np.diagonal(products, distance)
        np.testing.assert_allclose(same, same[0], rtol=1e-4)
    assert abs(products[0, 5] - products[0, 0]) > 1e-2
    assert products[0, 0] == pytest.approx(query @ key, rel=1e-5)
    norms = np.linalg.norm(queries, axis=-1)
    np.testing.assert_allclose(norms, np.linalg.norm(query), rtol=1e-5)


def plain_attention(attention, x):
    """By its formula in NumPy, with a head of keys and values for each of the queries."""

    def heads(part):
        return (x @ np.asarray(part.kernel[...])).reshape(*x.shape[:2], -1, attention.head)

    def turned(x):
        half = attention.head // 2
        angles = np.arange(x.shape[1])[:, None] / 10_000 ** (np.arange(half) / half)
        pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None, :]
        return np.concatenate([pairs.real, pairs.imag], axis=-1)

    query, key = turned(heads(attention.query)), turned(heads(attention.key))
    share = query.shape[2] // key.shape[2]
    key, value = (np.repeat(each, share, axis=2) for each in (key, heads(attention.value)))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(attention.head)
    scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
    return mixed @ np.asarray(attention.out.kernel[...])


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.every(3)
def test_grouped_queries_share_keys_and_values(groups):
    """With as many groups as heads it is attention as it is known."""
    attention = net.Attention(small(groups=groups), net.Computing("float32"), nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(BATCH, TIME, 32)).astype(np.float32)
    assert attention.key.kernel.shape == (32, 8 * groups)
    found = jax.jit(attention.__call__, compiler_options=QUICK)(x)
    np.testing.assert_allclose(found, plain_attention(attention, x), atol=1e-5)


@pytest.mark.parametrize(
    "how", [{"scan": True}, {"scan": True, "remat": True}, {"remat": True}], ids=str
)
@pytest.mark.slow
def test_a_scan_over_layers_and_remat_change_nothing(how):
    wanted, found = computed(), computed(**how)
    params, delta = step_of().params, found["delta"]
    if "scan" in how:
        params, delta = net.stacked(params), net.unstacked(delta)
        assert step_of(**how).params["layers.swiglu.up.kernel"].shape == (2, 32, 48)
    agree(step_of(**how).params, params, rtol=0)  # the same seed gives the same parameters
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-6)
    agree(delta, wanted["delta"], rtol=1e-4)


def test_remat_keeps_less():
    """What the backward pass is left: without it each layer's inside."""

    def kept(**how):
        step = step_of(**how)

        def loss(params):
            return lm.loss(step.model(params), tokens())[0]

        residuals = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], step.params)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    assert kept(remat=True, scan=True) < 0.7 * kept(scan=True)
    assert kept(remat=True) < 0.7 * kept()


@pytest.mark.slow
def test_bfloat16_rounds_and_parameters_stay_float32():
    half, wide = computed(dtype="bfloat16"), computed()
    assert {leaf.dtype for leaf in step_of(dtype="bfloat16").params.values()} == {jnp.float32.dtype}
    assert half["logits"].dtype == jnp.float32
    np.testing.assert_allclose(half["logits"], wide["logits"], atol=0.02)
    assert half["loss"] != wide["loss"]  # it is computed in bfloat16 indeed
    np.testing.assert_allclose(half["loss"], wide["loss"], rtol=2e-3)
    for path, leaf in wide["delta"].items():
        found = half["delta"][path]
        assert found.dtype == jnp.float32
        assert np.linalg.norm(found - leaf) < 0.05 * np.linalg.norm(leaf), path


def shapes_of(shape, how):
    """Shapes of the parameters by path, without making them."""
    model = nnx.eval_shape(lambda: net.Transformer(shape, how, nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): leaf.shape for path, leaf in flat}


COUNTS = {
    "0.3M": 301_728,
    "1M": 992_896,
    "10M": 9_540_480,
    "30M": 31_599_104,
    "100M": 100_885_248,
    "300M": 289_719_296,
    "1B": 992_569_344,
}


def test_a_size_has_about_as_many_parameters_as_its_name_says():
    assert {name: shape.parameters for name, shape in net.SIZES.items()} == COUNTS
    for name, count in COUNTS.items():
        wanted = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
        assert count == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.every(2)
def test_parameters_are_counted_and_each_has_a_sharding_that_divides_it(scan, tied):
    how, mesh = net.Computing(scan=scan), jax.make_mesh((2, 2), ("fsdp", "model"))
    for shape in (small(tied=tied), dataclasses.replace(net.SIZES["1B"], layers=2, tied=tied)):
        shapes, specs = shapes_of(shape, how), net.shardings(shape, how)
        assert sum(map(math.prod, shapes.values())) == shape.parameters
        assert specs.keys() == shapes.keys()
        for path, whole in shapes.items():
            one = jax.NamedSharding(mesh, specs[path]).shard_shape(whole)
            parts = math.prod(whole) // math.prod(one)
            assert parts == (1 if path.endswith("scale") else 4), path
        alone = net.shardings(shape, how, axes=("fsdp",))
        for path, spec in alone.items():
            wanted = set() if path.endswith("scale") else {"fsdp"}
            assert set(spec) - {None} == wanted


@pytest.mark.slow
def test_a_sharded_step_is_the_step():
    """FSDP and tensor parallel on 2 x 2 devices; deltas lie as the parameters do."""
    mesh = jax.make_mesh((2, 2), ("fsdp", "model"), (jax.sharding.AxisType.Auto,) * 2)
    shardings = {
        path: jax.NamedSharding(mesh, spec)
        for path, spec in net.shardings(small(), net.Computing()).items()
    }
    params = jax.device_put(step_of().params, shardings)
    batch = jax.device_put(tokens(), jax.NamedSharding(mesh, jax.P("fsdp")))
    found, wanted = program()(params, batch), computed()
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-5)
    agree(found["delta"], wanted["delta"], rtol=1e-3)


@pytest.mark.parametrize("scan", [False, True])
def test_fragments_are_of_layers_stacked_or_not(scan):
    """Streaming DiLoCo's strided layers, of paths with dots."""
    shapes = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32)
        for path, shape in shapes_of(small(layers=4), net.Computing(scan=scan)).items()
    }
    found = ssp.Fragments(2, by="strided", layers="layers").of(shapes)
    assert found.keys() == shapes.keys()
    if scan:
        for path in (path for path in shapes if path.startswith("layers.")):
            rows = [list(range(4))[own.start : own.stop : own.step] for own in found[path]]
            assert rows == [[0, 2], [1, 3]]
    else:
        assert ssp.Fragments(2, by="strided").of(shapes) == found
        for path in (path for path in shapes if path.startswith("layers.")):
            home = int(path.split(".")[1]) % 2
            assert [own.rows > 0 for own in found[path]] == [home == 0, home == 1]


def test_flops_are_those_of_the_matrices_and_of_attention():
    """By counting the multiplications of the forward pass; backwards there are twice as many."""
    found = []

    def count(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (summed, _), _ = equation.params["dimension_numbers"]
                left = equation.invars[0].aval.shape
                size = math.prod(equation.outvars[0].aval.shape)
                found.append(2 * size * math.prod(left[axis] for axis in summed))
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    count(inner)

    step = step_of()
    count(jax.make_jaxpr(step.model(step.params).__call__)(tokens().astype(np.int32)).jaxpr)
    counted = 3 * sum(found) / (BATCH * TIME)
    assert counted == pytest.approx(small().flops_per_token(TIME), rel=1e-6)


@pytest.mark.slow
def test_a_batch_is_learned_by_heart():
    model = net.Transformer(small(layers=1), net.Computing("float32"), nnx.Rngs(0))
    step, batch = ssp.make_nnx_step(model, lm.loss, optax.adam(1e-2)), tokens()

    def one(carry, _):
        params, state = carry
        delta, state, metrics = step(params, state, batch, jax.random.key(0))
        return (jax.tree.map(jnp.add, params, delta), state), metrics["loss"]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def train(params):
        return jax.lax.scan(one, (params, step.init(params)), length=150)[1]

    losses = train(step.params)
    assert losses[0] > 5
    assert losses[-1] < 0.1


@pytest.mark.parametrize("at_once", [2, 5, 8])
@pytest.mark.slow
def test_evaluation_does_not_depend_on_how_much_is_computed_at_once(at_once):
    table = jnp.asarray(np.random.default_rng(0).normal(size=(256, 256)), jnp.float32)
    held = np.random.default_rng(1).integers(0, 256, (5, TIME)).astype(np.uint8)

    def model(table):
        return lambda tokens: table[tokens]

    metrics = lm.evaluation(model, held, at_once)(table)
    wanted = float(jnp.mean(lm.nats(model(table), held)))
    assert float(metrics["test_loss"]) == pytest.approx(wanted, rel=1e-6)
    assert float(metrics["bits_per_byte"]) == pytest.approx(wanted / math.log(2), rel=1e-6)


def test_norms_do_not_decay_even_those_of_stacked_layers():
    """Which have two axes, as a matrix has."""
    params = {"layers": {"norm1": {"scale": jnp.ones((2, 3))}, "up": {"kernel": jnp.ones((3, 3))}}}
    optimizer = lm.LM(learning_rate=0.5, rounds=10).optimizer()
    none = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(none, optimizer.init(params), params)
    assert not updates["layers"]["norm1"]["scale"].any()
    np.testing.assert_allclose(updates["layers"]["up"]["kernel"], -0.5 * 0.1, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"heads": 3}, r"Shape\(heads=3\).* must divide `width`, 32"),
        ({"width": 36, "heads": 12, "groups": 12}, "into even parts"),
        ({"groups": 3}, r"Shape\(groups=3\).* must divide `heads`, which is 4"),
        ({"layers": 0}, r"Shape\(layers=...\).* at least 1, got 0"),
    ],
)
def test_a_shape_that_cannot_be_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        small(**wrong)
