"""A worker may be a slice: a mesh of several devices, inside which its arrays are sharded."""

import contextlib
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding

import jax_ssp as ssp
from jax_ssp.placement import separate_memory

P = jax.P
DEVICES = jax.devices()[:2], jax.devices()[2:4]
FSDP = {"b": P(), "w1": P("fsdp"), "w2": P("fsdp")}
TENSOR = {"b": P("model"), "w1": P(None, "model"), "w2": P("model")}
TWO = {"devices_per_worker": 2, "axes": {"fsdp": 2}, "shardings": FSDP}


def loss(params, batch, key):
    hidden = jnp.tanh(batch["x"] @ params["w1"] + params["b"][None])
    return jnp.mean((hidden @ params["w2"] - batch["x"][:, :2]) ** 2), {}


STEP = ssp.make_step(loss, optax.sgd(0.1, momentum=0.9))


def first():
    rng = np.random.default_rng(0)
    sizes = {"b": (6,), "w1": (4, 6), "w2": (6, 2)}
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


def data(worker):
    rng = np.random.default_rng(worker)
    while True:
        yield {"x": rng.normal(size=(4, 4)).astype(np.float32)}


def train(runtime, **more):
    spec = {"params": first(), "policy": ssp.SSP(bound=1), "num_clocks": 4, **more}
    return ssp.train(spec.pop("step", STEP), data=data, runtime=runtime, **spec)


def same(one, other):
    return all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.fixture(scope="module")
def flat():
    """Two workers with a device each, under BSP."""
    return train(ssp.Devices(num_workers=2), policy=ssp.BSP())


@pytest.mark.parametrize(
    "runtime",
    [
        ssp.Devices(**TWO),
        ssp.Devices(devices_per_worker=2, shardings=TENSOR),
        ssp.Devices(devices_per_worker=2, axes={"data": 2}),
    ],
    ids=["fsdp", "tensor-parallel", "data-parallel"],
)
@pytest.mark.every(3)
def test_two_slices_train_as_two_devices_do(flat, runtime):
    result = train(runtime, policy=ssp.BSP())
    for name, leaf in flat.params.items():
        np.testing.assert_allclose(result.params[name], leaf, rtol=1e-5, atol=1e-7)
    specs = runtime.shardings or dict.fromkeys(FSDP, P())
    assert {name: leaf.sharding.spec for name, leaf in result.params.items()} == specs
    assert {*result.params["w1"].sharding.device_set} == {*jax.devices()[:2]}
    ssp.check_contract(result.tape)


def on_devices(**how):
    """How often each shape was found on a single device while a run had a version or a clock.

    The parameters are of shapes that no other test has, (5, 40) and (40, 3), sharded on two.
    """
    sizes = {"w1": (5, 40), "w2": (40, 3)}
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in sizes.items()}
    found = Counter()

    def look(*_):
        for array in jax.live_arrays():
            with contextlib.suppress(RuntimeError):  # a program of a worker has just taken it over
                found.update(shard.data.shape for shard in array.addressable_shards)

    class Looking(ssp.Observer):
        def on_version(self, version):
            look()

        def on_clock(self, *given):
            look()

    def loss(params, batch, key):
        x = jnp.concatenate([batch["x"], batch["x"][:, :1]], axis=1)
        return jnp.mean((jnp.tanh(x @ params["w1"]) @ params["w2"]) ** 2), {}

    step = ssp.make_step(loss, optax.adam(0.1))
    shardings = {"w1": P(None, "fsdp"), "w2": P("fsdp")}
    train(
        ssp.Devices(**{**TWO, "shardings": shardings}),
        step=step, params=params, observers=[Looking()],
        evaluate=lambda params: look() or {"a": jnp.sum(params["w1"])}, eval_every=1, **how,
    )  # fmt: skip
    return found


@pytest.mark.slow
def test_what_a_user_shards_is_never_whole_on_a_device(standard_promotion):
    """The parameters, the optimizer's momentum, deltas, and what is on the server."""
    wires = {"delta_wire": ssp.compression.Int8(), "snapshot_wire": ssp.compression.BFloat16()}
    found = on_devices(**wires, overlap=1, local_steps=2)
    assert found[5, 20] > 0
    assert found[20, 3] > 0
    assert found[5, 40] == found[40, 3] == 0


def test_replays_to_the_bit():
    result = train(ssp.Devices(**TWO))
    again = train(ssp.Replay(result.tape))
    assert same(result.params, again.params)
    assert same(result.states, again.states)
    assert result.tape.header["slices"]["axes"] == {"fsdp": 2}
    assert result.tape.header["server"] == [["cpu", 0], ["cpu", 0]]


RANDK = {
    "delta_wire": ssp.compression.RandK(0.5), "snapshot_wire": ssp.compression.Int8(),
    "overlap": 1, "local_steps": 2,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {**RANDK, "adopt": ssp.Mix(0.5)},
        {"placement": "devices", "delta_tx": ssp.mitigations.delay_compensation(0.5)},
    ],
    ids=["wires and overlap", "merged on the workers' devices"],
)
def test_every_way_to_exchange_replays(how):
    result = train(ssp.Devices(**TWO), **how)
    again = train(ssp.Replay(result.tape), **how)
    assert same(result.params, again.params)
    if how.get("placement"):  # those of a position share what is of it
        assert result.tape.header["server"] == [["cpu", each] for each in (0, 2, 1, 3)]


@pytest.mark.slow
def test_the_explicit_mode_and_copies_to_memory_apart():
    """A step that says by `out_sharding` and `reshard` how it computes, on meshes of that kind."""

    def loss(params, batch, key):
        w1, w2 = (jax.sharding.reshard(params[name], P(None, None)) for name in ("w1", "w2"))
        hidden = jnp.tanh(batch["x"] @ w1 + params["b"][None])
        return jnp.mean((hidden @ w2 - batch["x"][:, :2]) ** 2), {}

    kinds = (AxisType.Explicit,)
    meshes = [Mesh(np.array(each), ("fsdp",), axis_types=kinds) for each in DEVICES]
    spec = {"step": ssp.make_step(loss, optax.sgd(0.1, momentum=0.9)), "overlap": 1}
    spec |= {"local_steps": 2, "evaluate": lambda params: {"sum": jnp.sum(params["w1"])}}
    with separate_memory():
        result = train(ssp.Devices(devices=meshes, shardings=FSDP), **spec)
        again = train(ssp.Replay(result.tape), **spec)
    assert same(result.params, again.params)
    assert result.params["w1"].sharding.mesh.axis_types == kinds


def test_parameters_say_how_they_lie_under_a_mesh_with_the_same_axes():
    mesh = Mesh(np.array(DEVICES[0]), ("fsdp",))
    axes = {"devices_per_worker": 2, "axes": {"fsdp": 2}}
    with jax.set_mesh(mesh):
        params = {
            name: jax.device_put(leaf, NamedSharding(mesh, FSDP[name]))
            for name, leaf in first().items()
        }
        result = train(ssp.Devices(**axes), params=params, num_clocks=1)
        assert {name: leaf.sharding.spec for name, leaf in result.params.items()} == FSDP
        with pytest.raises(ValueError, match=r"axes \{'fsdp': 2\}, but a worker's slice has \{'m"):
            train(ssp.Devices(devices_per_worker=2))


@pytest.mark.slow
def test_a_run_goes_on_and_a_worker_comes_again(tmp_path):
    def run(folder, clocks):
        more = {"checkpoint": ssp.Checkpoints(every=2), "delta_wire": ssp.compression.Int8()}
        more |= {"observers": [ssp.RunFolder(tmp_path / folder)], "policy": ssp.BSP()}
        return train(ssp.Devices(**TWO), num_clocks=clocks, **more)

    run("a", 3)
    result, whole = run("a", 5), run("b", 5)
    assert same(result.params, whole.params)
    assert same(result.states, whole.states)
    faults, recovery = [ssp.faults.Crash(1, 2)], ssp.Recovery()
    again = train(ssp.Devices(**TWO, faults=faults, recovery=recovery))
    assert again.status == "done"


@pytest.mark.slow
def test_half_precision_keeps_masters_on_the_slice():
    def loss(params, batch, key):
        x = batch["x"].astype(jnp.bfloat16)
        hidden = jnp.tanh(x @ params["w1"] + params["b"][None])
        return jnp.mean((hidden @ params["w2"]).astype(jnp.float32) ** 2), {}

    params = {name: jnp.asarray(leaf, jnp.bfloat16) for name, leaf in first().items()}
    result = train(ssp.Devices(**TWO), step=ssp.make_step(loss, optax.sgd(0.1)), params=params)
    assert result.params["w1"].dtype == jnp.bfloat16
    assert result.masters["w1"].sharding.spec == result.params["w1"].sharding.spec == P("fsdp")


def mesh(*devices, axis="x"):
    return Mesh(np.array(devices), (axis,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: {"devices_per_worker": 3, "axes": {"a": 2}},
            r"does not fit: a slice .* 2 devices",
        ),
        (lambda: {"axes": {"a": 0}}, r"axes=...\)\['a'\]` must be at least 1, got 0"),
        (lambda: {"axes": {}}, r"axes=...\)` must name at least one axis"),
        (lambda: {"devices_per_worker": 2, "workers_per_device": 2}, "cannot both be had"),
        (lambda: {"shardings": P("a")}, "each worker has one device; ask for slices"),
        (
            lambda: {"devices": [mesh(*DEVICES[0]), mesh(*DEVICES[1], axis="y")]},
            r"\[1\]` has the axes \{'y': 2\}.*but `Devices\(devices=...\)\[0\]` has \{'x': 2\}",
        ),
        (
            lambda: {"devices": [mesh(*DEVICES[0]), mesh(*DEVICES[0][::-1])]},
            "both hold .*; a device belongs to one slice",
        ),
    ],
)
def test_slices_that_cannot_be_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        ssp.Devices(**make())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"num_workers": 3}, r"devices_per_worker=2\)` needs 3 slices, but there are 4 devices"),
        (
            {"devices_per_worker": 3, "axes": {"fsdp": 3}},
            r"devices_per_worker=3\)` leaves 1 of 4 devices .* say `num_workers=1`",
        ),
        ({"shardings": {**FSDP, "b": P("other")}}, r"`params\['b'\]` is sharded as P.*'other'"),
        (
            {"shardings": P(None, None, "fsdp")},
            r"`params.* has more axes than its shape",
        ),
        ({"shardings": {"w1": P()}}, "`shardings` must be a `jax.P`, or a tree of them"),
        ({"batch_spec": P("other")}, r"`batch\['x'\]` is sharded as P.*'other'"),
    ],
)
def test_what_cannot_be_sharded_so_is_named(how, message):
    with pytest.raises(ValueError, match=message):
        train(ssp.Devices(**{**TWO, **how}))


def test_what_does_not_divide_is_named():
    params = {**first(), "w1": np.zeros((5, 6), np.float32)}
    message = r"`params\['w1'\]` of shape \(5, 6\) is sharded as P.*5 cannot be divided by 2"
    with pytest.raises(ValueError, match=message):
        train(ssp.Devices(**TWO), params=params)


def test_a_transform_of_more_than_one_number_is_refused():
    with pytest.raises(ValueError, match=r"not elementwise .* by the position of their shards"):
        train(ssp.Devices(**TWO), server_tx=optax.clip_by_global_norm(1.0))


@pytest.mark.slow
def test_an_nnx_model_says_how_it_lies():
    """By its metadata, or by the arrays that a mesh has sharded as they were made."""
    kernel = nnx.with_partitioning(nnx.initializers.ones, (None, "model"))

    def made():
        return nnx.Linear(4, 6, kernel_init=kernel, rngs=nnx.Rngs(0))

    def loss(model, batch):
        return jnp.mean(model(batch["x"]) ** 2), {}

    with nnx.use_eager_sharding(False):
        step = ssp.make_nnx_step(made(), loss, optax.sgd(0.1))
        plain = train(ssp.Devices(devices_per_worker=2), step=step, params=step.params)
    with jax.set_mesh(Mesh(np.array(DEVICES[1]), ("model",))):
        step = ssp.make_nnx_step(made(), loss, optax.sgd(0.1))
    eager = train(ssp.Devices(devices_per_worker=2), step=step, params=step.params)
    for result in (plain, eager):
        assert result.params["kernel"].sharding.spec == P(None, "model")
        assert result.params["bias"].sharding.spec == P()
