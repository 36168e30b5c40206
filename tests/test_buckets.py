"""Small arrays lie together between programs, and nobody outside of them can tell."""

import contextlib
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import buckets
from jax_ssp.buckets import Buckets, in_buckets, of_states
from jax_ssp.layout import Layout, Statistic
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.ray.sent import Sent
from jax_ssp.runtimes.task import Task
from jax_ssp.server.server import Server

HALF = jnp.bfloat16


def model(seed=0):
    """Small arrays of two dtypes, one of no dimensions, one of no numbers, and a large one."""
    rng = np.random.default_rng(seed)
    shapes = {"w": (6, 4), "b": (4,), "scale": (), "none": (0, 3), "mean": (4,), "var": (4,)}
    small = {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    half = {"one": jnp.ones((2, 3), HALF), "two": jnp.zeros(5, HALF)}
    return {"small": small, "half": half, "large": jnp.float32(rng.normal(size=(100, 100)))}


def averaged(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("mean", "var"), params)


def same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, other_leaf in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert jnp.asarray(leaf).dtype == jnp.asarray(other_leaf).dtype
        np.testing.assert_array_equal(leaf, other_leaf)


def close(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, other_leaf in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        numbers = (np.asarray(each, np.float32) for each in (leaf, other_leaf))
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-6)


@contextlib.contextmanager
def without_buckets(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(buckets, "SMALL", -1)
        yield


def test_what_goes_into_buckets_comes_out_as_it_was():
    params = model()
    layout = in_buckets(Layout.of(params, averaged(params)), params)
    packed = layout.packed(params)
    # What is trained, what is averaged, what is half as wide; and the large one by itself.
    assert sorted(leaf.size for leaf in packed) == [8, 11, 29, 10_000]
    assert [leaf.dtype for leaf in packed] == list(layout.dtypes)
    same(layout.unpacked(packed), params)
    same(jax.jit(layout.unpacked)(jax.jit(layout.packed)(params)), params)
    assert any(leaf is params["large"] for leaf in packed)  # not copied


def test_a_delta_goes_with_its_statistics():
    params = model()
    plain = Layout.of(params, averaged(params))
    layout = in_buckets(plain, params)
    delta = plain.map(lambda flag, leaf: Statistic(leaf, 2 * leaf) if flag else leaf, params)
    packed = layout.packed(delta)
    assert [isinstance(leaf, Statistic) for leaf in packed] == list(layout.averaged)
    same(layout.unpacked(packed), delta)


@pytest.mark.parametrize(
    "params",
    [
        {"w": jnp.ones(3)},
        {"w": jnp.ones(3), "z": jnp.ones(3, jnp.complex64), "v": jnp.ones(2, jnp.complex64)},
        {"one": jnp.ones((100, 100)), "two": jnp.ones((100, 100))},
        {"one": jnp.ones(3), "two": jnp.ones(3, HALF)},
    ],
)
def test_nothing_changes_where_there_are_no_two_of_a_kind(params):
    layout = Layout.of(params)
    assert in_buckets(layout, params) is layout
    assert layout.packed(params) is params is layout.unpacked(params)


def test_equal_layouts_are_equal_so_that_programs_are_shared():
    first, second = (in_buckets(Layout.of(each), each) for each in (model(0), model(1)))
    assert first == second
    assert hash(first) == hash(second)
    assert first != in_buckets(Layout.of(model(), averaged(model())), model())


def test_a_server_takes_and_gives_what_its_user_has(monkeypatch):
    params, deltas = model(), [model(1), model(2)]

    def merged():
        server = Server(params, optax.trace(0.9), averaged=averaged(params))
        for number in range(3):
            server.merge(deltas, staleness=number)
        return server

    server = merged()
    assert isinstance(server.layout, Buckets)
    with without_buckets(monkeypatch):
        plain = merged()
    assert not isinstance(plain.layout, Buckets)
    close(server.params, plain.params)
    close(server.masters, plain.masters)
    close(server.states[0].trace, plain.states[0].trace)
    same(jax.tree.map(jnp.shape, server.params), jax.tree.map(jnp.shape, params))


@pytest.mark.parametrize("half", [jnp.float16, HALF])
def test_a_delta_of_several_dtypes_is_rounded_to_none_of_them(half):
    server = Server({"one": jnp.ones(3), "two": jnp.float32(0)})
    server.merge([{"one": jnp.ones(3, half), "two": 1 + 2**-20}])
    assert server.params["two"] == 1 + 2**-20
    with jax.numpy_dtype_promotion("strict"):
        server.merge([{"one": jnp.ones(3, half), "two": jnp.float32(1)}])
    assert server.params["two"] == 2 + 2**-20


@pytest.mark.parametrize("num_shares", [1, 2])
def test_a_worker_deals_in_what_the_shares_of_a_server_have(num_shares):
    task = Task(step=step(), params=model(), data=data)
    run = Sent(Plan(num_clocks=1), task, None, num_shares, False, None)
    seated, shares = run.worker(0), list(map(run.share, range(num_shares)))
    held = jax.tree.map(np.asarray, seated.worker.replica.held)
    pieces = [held] if seated.whole is None else seated.whole.apart(held)
    for piece, share in zip(pieces, shares, strict=True):
        same(piece, share.server.versions.newest.pieces[0])
    assert isinstance(seated.worker.program.layout, Buckets) == (num_shares == 1)


@partial(jax.tree_util.register_dataclass, data_fields=["moments"], meta_fields=["schedule"])
@dataclasses.dataclass
class WithFunction:
    moments: object
    schedule: object


class Scheduled:
    """A step whose state has a function in it, another one each time that it is made."""

    def init(self, params):
        return WithFunction(jax.tree.map(jnp.zeros_like, params), lambda moment: 0.1 * moment)

    def __call__(self, params, state, batch, key):
        moments = jax.tree.map(lambda moment: 0.5 * moment + 1, state.moments)
        delta = jax.tree.map(state.schedule, moments)
        return delta, dataclasses.replace(state, moments=moments), {}


def test_a_state_may_have_functions_in_it(monkeypatch):
    def came_to():
        runtime, params = ssp.Virtual(2), {"w": jnp.ones(3), "b": jnp.zeros(())}
        given = {"runtime": runtime, "params": params, "data": data, "progress": False}
        result = ssp.train(Scheduled(), num_clocks=3, **given)
        return result.params, [each.moments for each in result.states.workers]

    here = came_to()
    with without_buckets(monkeypatch):
        same(came_to(), here)


class Counting:
    """A step in whose state is a number of the width that JAX is set to."""

    def init(self, params):
        return {"made": jnp.zeros(()), "moments": jax.tree.map(jnp.zeros_like, params)}

    def __call__(self, params, state, batch, key):
        return params, state | {"made": state["made"] + 1}, {}


def test_a_step_goes_with_another_setting_of_jax():
    step, params = Counting(), {"w": np.ones(3, np.float32), "b": np.float32(0)}
    given = {"params": params, "data": data, "num_clocks": 1, "progress": False}
    for wide, dtype in ((False, np.float32), (True, np.float64)):
        with jax.enable_x64(wide):
            (state,) = ssp.train(step, runtime=ssp.Virtual(1), **given).states.workers
        assert state["made"].dtype == dtype
        assert state["moments"]["w"].dtype == np.float32


def step():
    def loss(params, batch, key):
        small = params["small"]
        hidden = batch @ small["w"] * small["scale"] + (small["b"] - small["mean"])[None]
        others = sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in params["half"].values())
        return jnp.mean(jnp.tanh(hidden) ** 2) + others + jnp.mean(params["large"] ** 2), {}

    return ssp.make_step(loss, optax.sgd(1e-2, momentum=0.9))


def data(worker):
    rng = np.random.default_rng(worker)
    while True:
        yield rng.normal(size=(8, 6)).astype(np.float32)


def trained(**others):
    given = {"runtime": ssp.Virtual(num_workers=2, delay=ssp.delays.Exponential(1.0))}
    given = {"params": model(), "data": data, "num_clocks": 6, "progress": False} | given
    return ssp.train(step(), **(given | {"policy": ssp.SSP(2)} | others))


def spoiled(worker):
    for number, batch in enumerate(data(worker)):
        yield np.where((worker, number) == (1, 2), np.float32(np.nan), batch)


EXACT = {
    "plain": {},
    "rebase": {"overlap": 1},
    "mix": {"overlap": 1, "adopt": ssp.Mix(0.5)},
    "several steps": {"local_steps": 3},
    "together": {"runtime": ssp.Virtual(num_workers=4, batch=4)},
    "int8": {"delta_wire": ssp.compression.Int8(), "snapshot_wire": ssp.compression.Int8()},
    "top k": {"delta_wire": ssp.compression.TopK(0.1)},
    "not finite": {"data": spoiled, "overlap": 1},
}
CLOSE = {
    "momentum": {"server_tx": optax.trace(0.9)},
    "bases": {"delta_tx": ssp.mitigations.delay_compensation(0.1)},
    "on the server": {"optimizer_on": "server"},
}


SLOW = ("rebase", "several steps", "top k", "bases", "on the server")
MARKED = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in [*EXACT, *CLOSE]
]


@pytest.mark.parametrize("name", MARKED)
def test_a_run_comes_to_the_same(name, monkeypatch):
    """To the bit, but where a transform's arithmetic is compiled into one loop with the merge's."""
    result = trained(**(EXACT | CLOSE)[name])
    with without_buckets(monkeypatch):
        plain = trained(**(EXACT | CLOSE)[name])
    assert result.status == plain.status == "done"
    compare = same if name in EXACT else close
    compare(result.params, plain.params)
    compare(result.states, plain.states)
    compare([row["metrics"] for row in result.history], [row["metrics"] for row in plain.history])


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    given = {"policy": ssp.BSP(), "server_tx": optax.trace(0.9)}
    whole = trained(**given)
    saved = {"checkpoint": ssp.Checkpoints(tmp_path / "run", every=1), **given}
    trained(**saved, num_clocks=3)
    result = trained(**saved)
    same(result.params, whole.params)
    same(result.states, whole.states)


def test_what_gives_way_to_other_dtypes_is_in_no_bucket():
    layout = in_buckets(Layout.of(model()), model())
    state = {
        "weak": lambda: jnp.asarray(1.0),
        "one": lambda: jnp.ones(2),
        "two": lambda: jnp.ones(3),
    }
    states = of_states(layout, lambda params: {name: made() for name, made in state.items()})
    assert states.members == ((0, 1), (2,))
