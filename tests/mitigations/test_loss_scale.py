"""A float16 loss is scaled up, so that no gradient is rounded to zero; overflows are skipped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp.mitigations import dynamic_loss_scale, loss_scale_of
from tests.helpers.problems import bits

pytestmark = pytest.mark.usefixtures("standard_promotion")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 8, 3)).astype(np.float32)
BATCHES = [(x, x @ np.array([1.0, -2.0, 0.5], np.float32)) for x in X]


def reference(flags, scale, period, factor, least):
    """The rule of the docstring of `jmp.DynamicLossScale`, step by step."""
    counter, skipped, scales = 0, 0, []
    for finite in flags:
        if finite:
            counter += 1
            if counter == period:
                counter = 0
                if scale * factor < 2.0**128:
                    scale = scale * factor
        else:
            counter, scale, skipped = 0, max(least, scale / factor), skipped + 1
        scales.append(scale)
    return scales, skipped


@settings(max_examples=30, deadline=None)
@given(
    flags=st.lists(st.booleans(), min_size=1, max_size=20),
    period=st.integers(1, 4),
    start=st.sampled_from([1.0, 4.0, 2.0**126, 2.0**127]),
)
def test_the_scale_follows_the_rule(flags, period, start):
    scaled = dynamic_loss_scale(optax.sgd(1.0), start, period)
    state, seen = scaled.init(jnp.zeros(1)), []
    for finite in flags:
        gradient = jnp.ones(1) if finite else jnp.full(1, jnp.nan)
        updates, state = _update(scaled)(gradient, state)
        assert updates.tolist() == [-1.0 if finite else 0.0]
        assert bool(state.finite) == finite
        seen.append(float(state.scale))
    expected, skipped = reference(flags, start, period, 2.0, 1.0)
    assert (seen, int(state.skipped)) == (expected, skipped)


@functools.cache
def _update(scaled):
    return jax.jit(scaled.update)


@jax.custom_vjp
def stored(x):
    """A number as float16 holds it, and its gradient too; XLA may compute with more bits."""
    return jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)


stored.defvjp(lambda x: (stored(x), None), lambda _, gradient: (stored(gradient),))


def tiny(params, batch, key, stored=stored):
    """A loss so small that its gradient is zero in float16."""
    x, y = batch
    return jnp.float32(1e-6) * stored(jnp.mean((x @ params.astype(jnp.float32) - y) ** 2)), {}


def trained(step, **more):
    spec = {
        "params": jnp.zeros(3),
        "data": lambda worker: iter(BATCHES * 9),
        "runtime": ssp.Virtual(num_workers=2),
        "policy": ssp.BSP(),
        "num_clocks": 20,
    }
    return ssp.train(step, **{**spec, **more})


def test_what_would_be_rounded_to_zero_is_learned():
    sgd = optax.sgd(1e5)
    expected = trained(ssp.make_step(functools.partial(tiny, stored=lambda x: x), sgd)).params
    lost = trained(ssp.make_step(tiny, sgd)).params
    result = trained(ssp.make_step(tiny, dynamic_loss_scale(sgd)))
    assert not np.any(lost)
    np.testing.assert_allclose(result.params, expected, rtol=0.02)
    assert {row["metrics"]["loss_scale"] for row in result.history} == {2.0**15}
    assert {row["metrics"]["skipped_steps"] for row in result.history} == {0.0}


def plain_loss(params, batch, key):
    x, y = batch
    return jnp.mean((x @ params - y) ** 2), {}


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)])
@pytest.mark.slow
def test_in_float32_it_changes_nothing(optimizer):
    one, other = (
        trained(ssp.make_step(plain_loss, tx), local_steps=3, num_clocks=5)
        for tx in (optimizer, dynamic_loss_scale(optimizer, 1024.0))
    )
    np.testing.assert_allclose(one.params, other.params, rtol=1e-6)


def overflowing(when):
    """A loss whose gradient overflows in the batches that say so."""

    def loss(params, batch, key):
        x, y, bad = batch
        error = jnp.mean((x @ params - y) ** 2)
        return jnp.where(bad, error * jnp.float32(3e38), error), {}

    batches = [(*batch, np.bool_(number in when)) for number, batch in enumerate(BATCHES * 9)]
    return loss, lambda worker: iter(batches)


def test_an_overflow_skips_the_step_and_nothing_of_it_is_kept():
    loss, data = overflowing({2, 3})
    adam = functools.partial(optax.adam, 0.1)
    step = ssp.make_step(loss, dynamic_loss_scale(adam(), 8.0, period=4))
    alone = {"runtime": ssp.Virtual(num_workers=1), "num_clocks": 9}
    result = trained(step, data=data, **alone)
    without = [batch for number, batch in enumerate(BATCHES * 2) if number not in (2, 3)]
    expected = trained(
        ssp.make_step(plain_loss, adam()),
        **{**alone, "num_clocks": 7},
        data=lambda worker: iter(without),
    )
    assert bits(result.params) == bits(expected.params)
    (state,) = result.states.workers
    assert bits(state.inner) == bits(expected.states.workers[0])
    assert int(state.skipped) == 2
    rows = [row["metrics"] for row in result.history]
    assert [row["skipped_steps"] for row in rows] == [0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert [row["loss_scale"] for row in rows] == [8, 8, 8, 4, 2, 2, 2, 2, 4]
    assert result.status == "done"


def test_it_replays_and_a_clock_says_the_share_of_its_steps():
    loss, data = overflowing({1, 4, 5})
    step = ssp.make_step(loss, dynamic_loss_scale(optax.adam(0.1), 8.0, period=2))
    spec = {"data": data, "policy": ssp.SSP(bound=1), "num_clocks": 4, "local_steps": 2}
    result = trained(step, **spec, runtime=ssp.Devices(num_workers=2))
    again = trained(step, **spec, runtime=ssp.Replay(result.tape))
    assert bits(result.params) == bits(again.params)
    shares = [row["metrics"]["skipped_steps"] for row in result.history if row["worker"] == 1]
    assert shares == [0.5, 0.0, 1.0, 0.0]


class Net(nnx.Module):
    """Statistics, and an activation in float16 that overflows where inputs are large."""

    def __init__(self):
        self.norm = nnx.BatchNorm(3, momentum=0.5, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(3, 1, rngs=nnx.Rngs(0), dtype=jnp.float16)

    def __call__(self, x):
        return self.out(self.norm(x) * jnp.max(jnp.abs(x)))


def net_loss(model, batch):
    return jnp.mean(model(batch).astype(jnp.float32) ** 2), {}


@pytest.mark.parametrize("local_steps", [1, 2])
@pytest.mark.slow
def test_statistics_of_a_skipped_step_are_left_alone(local_steps):
    batches = [X[0], X[1], 1e5 * X[2], X[3], X[4], X[5]]
    step = ssp.make_nnx_step(Net(), net_loss, dynamic_loss_scale(optax.adam(0.1), 8.0))
    plain = ssp.make_nnx_step(Net(), net_loss, optax.adam(0.1))
    spec = {"params": None, "runtime": ssp.Virtual(num_workers=1), "local_steps": local_steps}
    result = trained(step, **spec, data=lambda w: iter(batches), num_clocks=6 // local_steps)
    without = [*batches[:2], *batches[3:]]
    expected = trained(
        plain, **{**spec, "local_steps": 1}, data=lambda w: iter(without), num_clocks=5
    )
    for name, value in expected.params.items():
        np.testing.assert_allclose(result.params[name], value, rtol=1e-3, atol=1e-5)
    assert int(result.states.workers[0].optimizer.skipped) == 1


class Averages:
    """A step written by hand, with statistics, which uses the scale as the docstring says."""

    def __init__(self):
        self._tx = dynamic_loss_scale(optax.sgd(0.1), 8.0)

    def init(self, params):
        return self._tx.init(params["w"])

    def averaged(self, params):
        return {"w": False, "seen": True}

    def __call__(self, params, state, batch, key):
        x, y = batch
        scale = loss_scale_of(state)

        def loss_fn(w):
            loss = jnp.mean((x @ w - y) ** 2)
            return scale.up(loss), loss

        grads, loss = jax.grad(loss_fn, has_aux=True)(params["w"])
        updates, state = self._tx.update(scale.down(grads), state, params["w"])
        return {"w": updates, "seen": jnp.float32(1)}, state, {"loss": loss}


@pytest.mark.slow
def test_a_step_by_hand_that_is_skipped_leaves_statistics_alone_too():
    x, y = BATCHES[0]
    batches = [(x, y), (x * np.float32(1e19), y), (x, y)]  # the loss is finite, the gradient is not
    params = {"w": jnp.full(3, 1e-6), "seen": jnp.float32(0)}
    result = trained(
        Averages(),
        params=params,
        runtime=ssp.Virtual(num_workers=1),
        data=lambda worker: iter(batches),
        num_clocks=3,
    )
    assert np.isfinite([row["metrics"]["loss"] for row in result.history]).all()
    assert int(result.states.workers[0].skipped) == 1
    assert result.params["seen"] == 2


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.slow
def test_half_parameters_have_an_optimizer_in_float32(dtype):
    params = jnp.zeros(3, dtype)
    step = ssp.make_step(tiny, dynamic_loss_scale(optax.adam(0.01)))
    state = step.init(params)
    assert state.inner[0].mu.dtype == jnp.float32
    delta, state, _ = step(params, state, BATCHES[0], jax.random.key(0))
    assert delta.dtype == jnp.float32
    assert np.all(delta != 0)
    assert trained(step, params=params, num_clocks=2).params.dtype == dtype


@pytest.mark.slow
def test_an_optimizer_that_asks_for_the_loss_is_given_it_in_the_users_dtype():
    def half(params, batch, key):
        assert params.dtype == jnp.float16
        x, y = batch
        return jnp.mean((x @ params.astype(jnp.float32) - y) ** 2), {}

    search = optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=8)
    )
    step = ssp.make_step(half, dynamic_loss_scale(search, 8.0))
    params = jnp.zeros(3, jnp.float16)
    state, losses = step.init(params), []
    for _ in range(3):
        delta, state, metrics = step(params, state, BATCHES[0], jax.random.key(0))
        params = (params + delta).astype(jnp.float16)
        losses.append(float(metrics["loss"]))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


def test_one_scale_is_enough():
    twice = optax.chain(dynamic_loss_scale(optax.sgd(0.1)), dynamic_loss_scale(optax.sgd(0.1)))
    with pytest.raises(ValueError, match="an optimizer can have one `dynamic_loss_scale`, not 2"):
        trained(ssp.make_step(plain_loss, twice))


def test_on_the_server_it_is_refused():
    step = ssp.make_step(plain_loss, dynamic_loss_scale(optax.sgd(0.1)))
    message = '`dynamic_loss_scale` and `optimizer_on="server"` cannot both be given'
    with pytest.raises(ValueError, match=message):
        trained(step, optimizer_on="server")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": 3}, r"`dynamic_loss_scale\(optimizer=...\)` must be an optax optimizer"),
        ({"initial": 0.5}, r"`dynamic_loss_scale\(initial=...\)` must be at least `least`, which "),
        ({"factor": 1.0}, r"`dynamic_loss_scale\(factor=...\)` must be above 1"),
        ({"period": 0}, r"`dynamic_loss_scale\(period=...\)` must be at least 1"),
        ({"initial": 1e39}, r"`dynamic_loss_scale\(initial=...\)` must be at most"),
    ],
)
def test_wrong_arguments_are_told(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dynamic_loss_scale(**{"optimizer": optax.sgd(0.1), **wrong})
