"""Half-precision parameters: masters in float32 take up what rounding would lose."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.checkpoint import load_params, save_params
from jax_ssp.policies import ALL_POLICIES
from tests.helpers.problems import bits

HALF = [jnp.bfloat16, jnp.float16]
JITTER = delays.Exponential()
DIMENSION = 16
ANSWER = np.linspace(-2, 2, DIMENSION).astype(np.float32)


def batches(worker):
    rng = np.random.default_rng([3, worker])
    while True:
        x = rng.normal(size=(8, DIMENSION)).astype(np.float32)
        yield x, x @ ANSWER + rng.normal(scale=0.1, size=8).astype(np.float32)


def loss_fn(params, batch, key):
    x, y = batch
    out = x @ params["w"].astype(jnp.float32) + params["b"].astype(jnp.float32)
    return jnp.mean((out - y) ** 2), {}


def params_of(dtype):
    return {"w": np.zeros(DIMENSION, dtype), "b": np.float32(0)}


def thinned(table, every):
    """The rows of a table, all but each so many-th for the slow loop."""
    return [
        pytest.param(*row, marks=[] if place % every == 0 else [pytest.mark.slow])
        for place, row in enumerate(table)
    ]


def fit(dtype, **others):
    spec = {
        "params": params_of(dtype),
        "data": batches,
        "runtime": ssp.Virtual(4, JITTER),
        "num_clocks": 30,
        **others,
    }
    return ssp.train(spec.pop("step", ssp.make_step(loss_fn, optax.sgd(0.02))), **spec)


def numbers(tree):
    return np.concatenate(
        [np.ravel(np.asarray(leaf, np.float32)) for leaf in jax.tree.leaves(tree)]
    )


POLICIES = [policy() for policy in ALL_POLICIES]
MODES = {
    "plain": {},
    "steps": {"local_steps": 3},
    "overlap": {"local_steps": 2, "overlap": 1},
    "all ahead": {"overlap": 1},
    "mix": {"local_steps": 2, "overlap": 1, "adopt": ssp.Mix(0.5)},
    "int8": {"delta_wire": ssp.compression.Int8(block=8)},
    "bf16": {"delta_wire": ssp.compression.BFloat16(), "snapshot_wire": ssp.compression.BFloat16()},
    "in pieces": {"placement": "devices"},
    "compensated": {"delta_tx": ssp.mitigations.delay_compensation(0.04, 0.02)},
    "in batches": {"runtime": ssp.Virtual(4, JITTER, batch=4)},
    "devices": {"runtime": ssp.Devices(num_workers=4)},
}


@pytest.mark.parametrize("policy", thinned([(policy,) for policy in POLICIES], 5), ids=repr)
@pytest.mark.every(7)
def test_under_every_policy_they_move_as_those_of_float32(policy):
    half, single = (fit(dtype, policy=policy) for dtype in (jnp.bfloat16, np.float32))
    assert half.params["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(numbers(half.params), numbers(single.params), atol=0.05)
    assert np.linalg.norm(numbers(half.params)[1:] - ANSWER) < 0.6 * np.linalg.norm(ANSWER)


@pytest.mark.parametrize(("mode", "dtype"), thinned(itertools.product(MODES, HALF), 5))
@pytest.mark.every(5)
def test_in_every_way_of_exchanging_and_to_the_last_bit_again(mode, dtype):
    half, single = (fit(each, policy=ssp.SSP(2), **MODES[mode]) for each in (dtype, np.float32))
    if mode != "devices":  # where another run is another schedule
        np.testing.assert_allclose(numbers(half.params), numbers(single.params), atol=0.05)
    assert jax.tree.map(lambda leaf: leaf.dtype, half.params) == {
        "w": np.dtype(dtype),
        "b": np.float32,
    }
    if mode == "in batches":
        return
    again = fit(dtype, policy=ssp.SSP(2), **{**MODES[mode], "runtime": ssp.Replay(half.tape)})
    assert bits(again.masters) == bits(half.masters)
    assert bits(again.params) == bits(half.params)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.every(2)
def test_masters_are_what_is_rounded(dtype):
    result = fit(dtype, policy=ssp.ASP())
    assert {leaf.dtype for leaf in jax.tree.leaves(result.masters)} == {np.dtype(np.float32)}
    assert bits(result.params) == bits(
        {"w": result.masters["w"].astype(dtype), "b": result.masters["b"]}
    )
    assert not np.array_equal(numbers(result.masters), numbers(result.params))


def test_of_float32_masters_are_the_parameters():
    result = fit(np.float32)
    assert result.masters is result.params


TINY = itertools.product(
    [{}, {"local_steps": 4}, {"local_steps": 2, "overlap": 1}],
    [ssp.BSP(), ssp.SSP(2), ssp.ASP()],
    HALF,
)


@pytest.mark.parametrize(("steps", "policy", "dtype"), thinned(TINY, 7), ids=repr)
@pytest.mark.every(3)
def test_tiny_updates_add_up(dtype, policy, steps):
    """Each far below what beside 1 can be told apart in half precision; 1 in the sum."""
    local_steps = steps.get("local_steps", 1)
    clocks = 512 // local_steps
    step = ssp.make_step(
        lambda p, b, key: (-jnp.sum(p["w"].astype(jnp.float32)), {}), optax.sgd(1 / 4096)
    )
    result = ssp.train(
        step,
        params={"w": np.ones(4, dtype)},
        data=lambda worker: itertools.repeat(np.float32(0)),
        policy=policy,
        runtime=ssp.Virtual(4, JITTER),
        num_clocks=clocks,
        **steps,
    )
    rate = float(np.asarray(jnp.asarray(1 / 4096, dtype), np.float64))
    expected = 1 + 512 * rate
    np.testing.assert_allclose(numbers(result.masters), expected, rtol=1e-5)


class Reads:
    """A step that pushes its batch, and says what it reads: the parameter and its dtype."""

    init = staticmethod(lambda params: ())

    def __call__(self, params, worker_state, batch, key):
        return {"w": batch}, worker_state, {"read": params["w"].astype(jnp.float32)}


def test_a_step_sees_the_rounded_sum_and_the_sum_keeps_the_rest():
    """In bfloat16 1 + 1/256 is 1, and 1 + 3/256 is rounded to even, 1 + 4/256."""
    result = ssp.train(
        Reads(),
        params={"w": np.ones((), jnp.bfloat16)},
        data=lambda worker: itertools.repeat(np.float32(1 / 256)),
        runtime=ssp.Virtual(1),
        policy=ssp.BSP(),
        num_clocks=5,
    )
    read = [row["metrics"]["read"] for row in result.history]
    assert read == [1, 1, 1 + 2 / 256, 1 + 4 / 256, 1 + 4 / 256]
    assert float(result.masters["w"]) == 1 + 5 / 256


def test_deltas_that_are_not_merged_yet_are_read_unrounded():
    """Worker 0 keeps the first version: of its own it reads 1/512 after 1/512."""
    result = ssp.train(
        Reads(),
        params={"w": np.ones((), jnp.bfloat16)},
        data=lambda worker: itertools.repeat(np.float32((1 - worker) / 256)),
        runtime=ssp.Virtual(2, lambda worker, clock, steps, rng: 100.0 if worker else 1.0),
        policy=ssp.SSP(5, "lazy"),
        num_clocks=6,
        weight="sum",
    )
    read = [row["metrics"]["read"] for row in result.history if row["worker"] == 0]
    assert read == [1, 1, 1 + 2 / 256, 1 + 4 / 256, 1 + 4 / 256, 1 + 4 / 256]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.slow
def test_an_optimizer_with_moments_in_float32_is_taken(dtype):
    """Its updates are float32, and `optax.apply_updates` takes them too."""
    adam = optax.adam(0.05)

    def single(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)

    class InFloat32:
        def init(self, params):
            return adam.init(single(params))

        def __call__(self, params, state, batch, key):
            loss, grads = jax.value_and_grad(lambda p: loss_fn(p, batch, key)[0])(params)
            updates, state = adam.update(single(grads), state)
            return updates, state, {"loss": loss}

    for others in ({}, {"local_steps": 3}):
        result = fit(dtype, step=InFloat32(), **others)
        assert result.params["w"].dtype == dtype
        losses = [row["metrics"]["loss"] for row in result.history]
        assert np.mean(losses[-8:]) < 0.5 * np.mean(losses[:8])


def test_every_part_of_a_run_has_its_dtypes():
    """Evaluation and steps see the user's, transforms the masters'."""
    seen = {}

    def told(name, dtype):
        seen.setdefault(name, set()).add(np.dtype(dtype))

    def update(updates, state, params, *, stale_params, **extras):
        for name, tree in (("updates", updates), ("params", params), ("base", stale_params)):
            told(name, tree["w"].dtype)
        return updates, state

    def loss(params, batch, key):
        told("step", params["w"].dtype)
        return loss_fn(params, batch, key)

    def evaluate(params):
        told("evaluate", params["w"].dtype)
        return {"norm": jnp.linalg.norm(params["w"].astype(jnp.float32))}

    spy = optax.GradientTransformationExtraArgs(lambda params: (), update)
    fit(
        jnp.bfloat16,
        step=ssp.make_step(loss, optax.sgd(0.02)),
        delta_tx=spy,
        server_tx=spy,
        evaluate=evaluate,
        num_clocks=3,
    )
    half, single = {np.dtype(jnp.bfloat16)}, {np.dtype(np.float32)}
    assert seen == {
        "updates": single, "params": single, "base": single, "step": half, "evaluate": half
    }  # fmt: skip


def test_one_step_serves_runs_of_several_dtypes():
    step = ssp.make_step(loss_fn, optax.sgd(0.02))
    results = [fit(dtype, step=step, num_clocks=5) for dtype in (np.float32, *HALF, np.float32)]
    assert [result.params["w"].dtype for result in results] == [np.float32, *HALF, np.float32]
    assert bits(results[0].params) == bits(results[-1].params)


class Net(nnx.Module):
    """Two layers; `dtype` is that of the arithmetic."""

    def __init__(self, dtype=None):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(DIMENSION, 8, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(8, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))


def net_loss(model, batch):
    x, y = batch
    return jnp.mean((model(x)[:, 0].astype(jnp.float32) - jnp.tanh(y)) ** 2), {}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.slow
def test_both_recipes_of_a_model_come_near_float32():
    """Arithmetic in bfloat16 with parameters in float32, and parameters in bfloat16."""
    half = Net()
    cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(half))
    nnx.update(half, cast)
    losses = {}
    for name, model in {"float32": Net(), "compute": Net(jnp.bfloat16), "params": half}.items():
        sgd = optax.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.float32)
        step = ssp.make_nnx_step(model, net_loss, sgd)
        result = fit(None, step=step, params=None, num_clocks=60)
        dtype = jnp.bfloat16 if name == "params" else jnp.float32
        assert {leaf.dtype for leaf in result.params.values()} == {np.dtype(dtype)}
        assert {leaf.dtype for leaf in result.masters.values()} == {np.dtype(np.float32)}
        losses[name] = np.mean([row["metrics"]["loss"] for row in result.history[-40:]])
        assert losses[name] < 0.5 * result.history[0]["metrics"]["loss"]
    assert losses["compute"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["params"] == pytest.approx(losses["float32"], rel=0.05)


# At the server alone.


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.every(5)
def test_a_server_adds_up_what_it_does_not_show(dtype, devices):
    server = ssp.Server({"w": np.ones(4, dtype)}, weight="sum", device=jax.devices()[:devices])
    for number in range(256):
        delta = np.full(4, 1 / 4096, np.float32 if number % 2 else dtype)
        server.merge([{"w": delta}])
    assert server.masters["w"].tolist() == [1.0625] * 4
    assert server.snapshot()["w"].dtype == dtype
    assert server.snapshot()["w"].astype(np.float32).tolist() == [1.0625] * 4
    assert server.snapshot(256) is server.params


def test_masters_are_rounded_to_nearest_even_and_float64_stays(x64):
    params = {"h": jnp.zeros(1000, jnp.bfloat16), "d": jnp.zeros(3, jnp.float64)}
    server = ssp.Server(params, weight="sum")
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    server.merge([{"h": values, "d": np.full(3, 1e-12)}])
    assert server.params["h"].tolist() == values.astype(ml_dtypes.bfloat16).tolist()
    assert server.params["d"].tolist() == [1e-12] * 3
    assert (server.masters["h"].dtype, server.masters["d"].dtype) == (np.float32, np.float64)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def test_saved_parameters_are_the_users(tmp_path):
    result = fit(jnp.bfloat16, num_clocks=4)
    for name, tree in (("params", result.params), ("masters", result.masters)):
        save_params(tmp_path / name, tree)
        assert bits(load_params(tmp_path / name, like=tree)) == bits(tree)
