"""A clock is its steps, whole or in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.worker.clock import clock_fn
from tests.helpers.steps import KEY, assert_close, batch_of, linear, loss_fn


def noisy_loss(params, batch, key):
    x, y = batch
    error = x @ params["w"] + params["b"] - y
    noise = jax.random.normal(key)
    return jnp.mean(error**2) + noise * params["b"], {"noise": noise, "count": jnp.int32(3)}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.every(2)
def test_a_clock_is_its_steps(steps):
    step, params = ssp.make_step(noisy_loss, optax.adam(0.05)), linear()
    state, batch = step.init(params), batch_of(7, steps)
    delta, after, metrics = jax.jit(clock_fn(step, steps))(
        params, state, batch, jax.random.fold_in(KEY, 2), np.int32(9)
    )
    key = jax.random.fold_in(jax.random.fold_in(KEY, 2), 9)
    local, seen = params, []
    for number in range(steps):
        one = jax.tree.map(lambda leaf, number=number: leaf[number], batch)
        update, state, found = step(local, state, one, jax.random.fold_in(key, number))
        local = optax.apply_updates(local, update)
        seen.append(found)
    assert_close(delta, jax.tree.map(jnp.subtract, local, params), rtol=1e-4)
    assert_close(after, state, rtol=1e-5)
    assert metrics.keys() == {"loss", "noise", "count"}
    assert len({float(found["noise"]) for found in seen}) == steps
    for name in metrics:
        average = np.mean([float(found[name]) for found in seen])
        np.testing.assert_allclose(metrics[name], average, rtol=1e-5)


def test_a_clock_of_one_step_takes_the_batch_as_it_is():
    step, params, batch = ssp.make_step(noisy_loss, optax.sgd(0.1)), linear(), batch_of(1)
    given = clock_fn(step, 1)(params, step.init(params), batch, KEY, 0)
    key = jax.random.fold_in(jax.random.fold_in(KEY, 0), 0)
    assert_close(given, step(params, step.init(params), batch, key))


def test_a_delta_keeps_its_low_bits_beside_large_parameters():
    step = ssp.make_step(lambda p, b, k: (jnp.sum(p["w"] * b), {}), optax.sgd(1.0))
    params = {"w": jnp.array([1e6])}
    batch = np.full((4, 1), 0.01, np.float32)  # the spacing of float32 at 1e6 is 0.0625
    delta, _, _ = clock_fn(step, 4)(params, step.init(params), batch, KEY, 0)
    np.testing.assert_allclose(delta["w"], [-0.04], rtol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("first", [1, 3, 4])
@pytest.mark.every(3)
def test_a_clock_in_two_parts_is_the_clock(first):
    step, params = ssp.make_step(noisy_loss, optax.adam(0.05)), linear()
    state, batch = step.init(params), batch_of(7, 5)
    whole = clock_fn(step, 5)(params, state, batch, KEY, 9)
    head, tail = (
        jax.tree.map(lambda leaf, part=part: leaf[part] if part != slice(4, 5) else leaf[4], batch)
        for part in (slice(0, first), slice(first, 5))
    )
    if first == 1:
        head = jax.tree.map(lambda leaf: leaf[0], batch)
    carried, state, one = clock_fn(step, first)(params, state, head, KEY, 9)
    rest = clock_fn(step, 5 - first, first)
    delta, state, two = rest(params, state, tail, KEY, 9, carried=carried)
    assert_close(delta, whole[0], rtol=1e-5)
    assert_close(state, whole[1], rtol=1e-5)
    for name in whole[2]:
        mean = (first * one[name] + (5 - first) * two[name]) / 5
        np.testing.assert_allclose(whole[2][name], mean, rtol=1e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_a_clock_is_one_scan_however_long():
    step, params = ssp.make_step(loss_fn, optax.adam(0.05)), linear()
    sizes = {}
    for steps in (8, 64):
        jaxpr = jax.make_jaxpr(clock_fn(step, steps))(
            params, step.init(params), batch_of(0, steps), KEY, np.int32(0)
        )
        sizes[steps] = len(jaxpr.eqns)
        scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
        assert [scan.params["length"] for scan in scans] == [steps]
    assert sizes[8] == sizes[64]
