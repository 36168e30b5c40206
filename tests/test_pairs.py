"""A complex parameter is trained, merged, compressed and judged as two real ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp.compression import ALL_COMPRESSORS, compress, residual_of
from jax_ssp.mitigations import ALL_MITIGATIONS
from jax_ssp.pairs import Pair, descent, join, on_pairs, split

TARGET = np.array([1 + 2j, -0.5 - 1j, 3j, -2], np.complex64)
NAMES = ("z", "w")
NAN, INFINITE = complex(np.nan, 1), complex(1, np.inf)
OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.05, momentum=0.5, nesterov=True),
    "adam": lambda: optax.adam(0.1),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1)),
    "rprop": lambda: optax.rprop(0.1),
    "decay of z": lambda: optax.adamw(0.1, weight_decay=0.1, mask={"z": True, "w": False}),
}


@pytest.fixture(autouse=True)
def _as_optax_needs_it():
    """Some of optax's optimizers do not work under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def loss(params, batch, key):
    """Of the real and the imaginary part of z, and a real w that both depend on."""
    z, w = params["z"], params["w"]
    real, imaginary = (z.real, z.imag) if jnp.iscomplexobj(z) else z
    error = (real * w - batch.real) ** 2 + (imaginary - batch.imag) ** 2
    return jnp.sum(error), {}


def real(tree):
    """The same with z as a plain tuple of two real parameters."""
    return {**tree, "z": tuple(split(tree["z"]))}


def whole(tree):
    return {**tree, "z": jax.lax.complex(*map(jnp.asarray, tree["z"]))}


def both_starts():
    start = {"z": jnp.full(4, 0.3 - 0.2j, jnp.complex64), "w": jnp.ones(4)}
    return start, real(start)


def batches(worker):
    rng = np.random.default_rng(worker)
    while True:
        noise = rng.normal(size=(2, 4)).astype(np.float32)
        yield TARGET + np.complex64(0.3) * (noise[0] + np.complex64(1j) * noise[1])


def assert_pairs(got, expected, rtol=2e-5):
    """Complex numbers on the left, pairs on the right."""
    assert got["z"].dtype == np.complex64
    flat = jax.tree.map(np.asarray, whole(expected))
    for name in NAMES:
        np.testing.assert_allclose(got[name], flat[name], rtol=rtol, atol=rtol)


@functools.cache
def step_of(name):
    """One step for all tests that use it, so that it is compiled once."""
    return ssp.make_step(loss, OPTIMIZERS[name]())


def trained_both(optimizer="momentum", runtime=None, workers=3, clocks=12, **spec):
    runtime = runtime or ssp.Virtual(workers, ssp.delays.Exponential())
    spec = {"policy": ssp.SSP(2), "num_clocks": clocks, "local_steps": 2, **spec}
    step = step_of(optimizer)
    return [
        ssp.train(step, params=params, data=batches, runtime=runtime, **spec)
        for params in both_starts()
    ]


def test_a_tree_without_complex_numbers_passes_as_it_is():
    tree = {"w": jnp.ones(2), "h": jnp.ones((), jnp.bfloat16), "n": 3, "none": None}
    for function in (split, join, descent):
        again = function(tree)
        assert all(again[name] is tree[name] for name in tree)


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.complex128])
@pytest.mark.every(2)
def test_what_is_split_is_joined_bit_for_bit(dtype):
    with jax.enable_x64(dtype == jnp.complex128):
        odd = np.array([complex(np.nan, 1), complex(-0.0, np.inf), 1 - 2j], dtype)
        tree = {"z": jnp.asarray(odd), "w": jnp.ones(2), "scalar": jnp.asarray(1j, dtype)}
        pairs = split(tree)
        assert isinstance(pairs["z"], Pair)
        assert pairs["z"].real.dtype == jnp.finfo(dtype).dtype
        again = join(pairs)
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True):
            assert one.dtype == other.dtype
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("momentum", "adam") else pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
@pytest.mark.every(2)
def test_training_is_that_of_real_and_imaginary_part(name):
    got, expected = trained_both(name)
    assert_pairs(got.params, expected.params)
    assert list(got.tape) == list(expected.tape)
    # And it goes downhill in both parts.
    assert got.history[-1]["metrics"]["loss"] < 0.7 * got.history[0]["metrics"]["loss"]


def test_plain_sgd_reaches_the_target():
    def distance(params, batch, key):
        return jnp.sum(jnp.abs(params - TARGET) ** 2), {}

    zero = jnp.zeros(4, jnp.complex64)
    step = ssp.make_step(distance, optax.sgd(0.1))
    spec = {"params": zero, "data": lambda worker: iter([np.float32(0)] * 99)}
    result = ssp.train(step, **spec, runtime=ssp.Virtual(2), policy=ssp.BSP(), num_clocks=60)
    np.testing.assert_allclose(result.params, TARGET, atol=1e-4)


def test_an_nnx_model_with_complex_weights_goes_downhill():
    class Model(nnx.Module):
        def __init__(self):
            self.kernel = nnx.Param(jnp.zeros(4, jnp.complex64))

    def distance(model, batch):
        return jnp.sum(jnp.abs(model.kernel[...] - TARGET) ** 2), {}

    step = ssp.make_nnx_step(Model(), distance, optax.sgd(0.1))
    spec = {"params": step.params, "data": lambda worker: iter([np.float32(0)] * 99)}
    result = ssp.train(step, **spec, runtime=ssp.Virtual(2), policy=ssp.BSP(), num_clocks=60)
    (kernel,) = jax.tree.leaves(result.params)
    np.testing.assert_allclose(kernel, TARGET, atol=1e-4)


@pytest.mark.parametrize("name", ALL_MITIGATIONS)
@pytest.mark.parametrize("place", ["delta_tx", pytest.param("server_tx", marks=pytest.mark.slow)])
@pytest.mark.every(13)
def test_every_mitigation_in_training(name, place):
    weight = "sum" if name in ("delayed_nesterov", "elastic_average") else "mean"
    transform = ALL_MITIGATIONS[name]()
    clocks = 6 if name == "outer" else 12  # it goes uphill there, and what differs goes with it
    got, expected = trained_both(**{place: transform}, weight=weight, clocks=clocks)
    assert_pairs(got.params, expected.params)


@pytest.mark.parametrize("name", ALL_MITIGATIONS)
@pytest.mark.every(13)
def test_every_mitigation_alone(name):
    transform = ALL_MITIGATIONS[name]()
    rng = np.random.default_rng(0)

    def tree(scale):
        real, imaginary, w = (scale * rng.normal(size=(3, 4))).astype(np.float32)
        return {"z": jnp.asarray(real + np.complex64(1j) * imaginary), "w": jnp.asarray(w)}

    params = tree(1.0)
    state, its = transform.init(params), transform.init(real(params))
    for scale in (1.0, 1.0, 0.5, 1.0, 2.0, 50.0, 1.0):  # 50: an outlier
        delta, base = tree(scale), tree(1.0)
        about = {"staleness": jnp.int32(3), "lag": jnp.int32(0), "worker": jnp.int32(0)}
        about["num_workers"] = jnp.int32(4)
        got, state = transform.update(delta, state, params, stale_params=base, **about)
        about["stale_params"] = real(base)
        expected, its = transform.update(real(delta), its, real(params), **about)
        assert_pairs(got, expected)


def slowly(value):
    return pytest.param(value, marks=pytest.mark.slow)


POLICIES = [
    ssp.BSP(),
    ssp.ASP(),
    ssp.SSP(3, adopt="lazy"),
    ssp.VAP(limit=0.2),
    ssp.KSync(2),
    ssp.KAsync(2),
    ssp.Ringmaster(1, stops=True),
    ssp.BackupWorkers(1),
]


@pytest.mark.parametrize("policy", [POLICIES[0], *map(slowly, POLICIES[1:])], ids=repr)
def test_every_way_of_exchange(policy):
    got, expected = trained_both(policy=policy)
    assert_pairs(got.params, expected.params)
    starts = [
        [entry[0]._replace(norm=0.0) if hasattr(entry[0], "norm") else entry[0] for entry in run]
        for run in ([(event, commands) for _, event, commands in r.tape] for r in (got, expected))
    ]
    assert starts[0] == starts[1]


@pytest.mark.parametrize("kind", ALL_COMPRESSORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("wire", ["deltas", "snapshots"])
@pytest.mark.every(13)
def test_every_wire(kind, wire):
    if wire == "snapshots" and not kind.for_snapshots:
        pytest.skip("for deltas only")
    name = {"deltas": "delta_wire", "snapshots": "snapshot_wire"}[wire]
    got, expected = trained_both(**{name: kind()})
    assert_pairs(got.params, expected.params)


@pytest.mark.parametrize("adopt", ["rebase", ssp.Mix(0.5)], ids=repr)
@pytest.mark.every(2)
def test_with_overlap(adopt):
    spec = {"policy": ssp.ASP(), "overlap": 1, "adopt": adopt}
    got, expected = trained_both(**spec)
    assert_pairs(got.params, expected.params)


@pytest.mark.parametrize("kind", ALL_COMPRESSORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "bad", [None, *(pytest.param(bad, marks=pytest.mark.slow) for bad in (NAN, INFINITE))], ids=str
)
@pytest.mark.every(11)
def test_every_compressor_alone(kind, bad):
    delta = {"z": jnp.asarray(TARGET), "w": jnp.arange(5.0)}
    if bad is not None:
        delta["z"] = delta["z"].at[1].set(bad)
    pairs = real(delta)
    residual, rest = residual_of(delta), residual_of(pairs)
    for number in range(3):
        message, decoded, residual = compress(kind(), delta, residual, jax.random.key(number))
        its, expected, rest = compress(kind(), pairs, rest, jax.random.key(number))
        trees = (message, decoded, residual), (its, whole(expected), whole(rest))
        for one, other in zip(*map(jax.tree.leaves, trees), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one.astype(np.complex64), other.astype(np.complex64))


@pytest.mark.slow
def test_a_server_alone_and_one_of_several_devices():
    params, pairs = both_starts()
    delta = jax.tree.map(lambda leaf: leaf * leaf, params)
    clip = optax.chain(optax.clip(0.05), optax.trace(0.9))
    for devices in (1, 2):
        place = jax.devices("cpu")[:devices]
        servers = [ssp.Server(each, clip, device=place) for each in (params, pairs)]
        for _ in range(3):
            servers[0].merge([delta, params])
            servers[1].merge([real(delta), real(params)])
        assert_pairs(servers[0].params, servers[1].params)
    with pytest.raises(ValueError, match="any complex type will do"):
        ssp.Server(params).merge([{**delta, "z": jnp.ones(4)}])
    with pytest.raises(ValueError, match="any floating-point type will do"):
        ssp.Server(params).merge([{**delta, "w": delta["z"]}])
    with pytest.raises(ValueError, match="is not elementwise"):
        ssp.Server(params, optax.clip_by_global_norm(1.0), device=jax.devices("cpu")[:2])


def test_a_run_of_devices_replays_and_is_saved_bit_for_bit(tmp_path):
    spec = {"policy": ssp.SSP(1), "num_clocks": 6, "params": both_starts()[0], "data": batches}
    step = step_of("momentum")
    result = ssp.train(step, **spec, runtime=ssp.Devices(num_workers=2))
    again = ssp.train(step, **spec, runtime=ssp.Replay(result.tape))
    for name in NAMES:
        assert np.asarray(result.params[name]).tobytes() == np.asarray(again.params[name]).tobytes()
    ssp.checkpoint.save_params(tmp_path, result.params)
    loaded = ssp.load_params(tmp_path)
    for name in NAMES:
        np.testing.assert_array_equal(loaded[name], result.params[name])


def test_a_transform_asked_for_a_value_gets_the_parameters_themselves():
    """A line search evaluates the loss; it must see complex parameters, not pairs."""
    seen = []

    @dataclasses.dataclass
    class Asking:
        init = staticmethod(lambda params: ())

        @staticmethod
        def update(updates, state, params, *, value_fn):
            seen.append(value_fn(params))
            return updates, state

    params = {"z": jnp.asarray(TARGET)}
    on_pairs(Asking()).update(params, (), params, value_fn=lambda p: p["z"].dtype)
    assert seen == [np.complex64]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "chain",
    [
        lambda: (ssp.outer(optax.sgd(0.5, momentum=0.9)), ssp.mitigations.elastic_average(0.5)),
        lambda: (ssp.mitigations.clip_outliers(), ssp.outer(optax.adam(0.1)), optax.clip(0.05)),
        lambda: (ssp.mitigations.skip_nonfinite(), optax.clip(1.0)),
    ],
)
@pytest.mark.every(3)
def test_what_knows_of_pairs_itself_may_be_part_of_a_chain(chain):
    """In a chain it is given pairs, and what comes after it has to get pairs too."""
    servers = [
        ssp.Server({"w": start}, optax.chain(*chain()))
        for start in (jnp.zeros(3, jnp.complex64), jnp.zeros((3, 2)))
    ]
    delta = np.array([[1.0, -2.0], [0.5, 0.0], [-3.0, 4.0]], np.float32)
    for _ in range(3):
        for server, each in zip(servers, (delta[:, 0] + 1j * delta[:, 1], delta), strict=True):
            server.merge([{"w": each}], stale_params=[server.params])
    found, expected = (np.asarray(server.params["w"]) for server in servers)
    np.testing.assert_allclose(found, expected[:, 0] + 1j * expected[:, 1], rtol=1e-6)


def test_an_optimizer_after_a_mitigation_is_refused_for_complex_numbers_too():
    tx = optax.chain(ssp.mitigations.clip_outliers(), optax.adam(0.1))
    with pytest.raises(ValueError, match="`server_tx` goes uphill"):
        ssp.Server({"w": jnp.zeros(3, jnp.complex64)}, tx)
