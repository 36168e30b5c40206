"""Bound 0 is synchronous training: the same parameters as one large batch, and the same bits."""

import jax
import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from tests.helpers.problems import PARAMS, batches, bits, linear, loss_fn

CLOCKS = 50
JITTER = delays.ShiftedExponential(shift=0.0, mean=0.001)
WORLDS = {
    "virtual": lambda seed: ssp.Virtual(num_workers=4, delay=delays.Exponential(), seed=seed),
    "devices": lambda seed: ssp.Devices(delay=JITTER, seed=seed),
}
in_both = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def synchronous():
    """Plain JAX: one step of SGD a clock, on the batches of all workers put together."""
    params = jax.tree.map(jax.numpy.asarray, PARAMS)
    shards = [batches(worker) for worker in range(4)]
    gradient = jax.jit(jax.grad(lambda params, batch: loss_fn(params, batch, None)[0]))
    for _ in range(CLOCKS):
        batch = jax.tree.map(lambda *parts: np.concatenate(parts), *map(next, shards))
        params = jax.tree.map(lambda w, g: w - 0.05 * g, params, gradient(params, batch))
    return params


def run(policy, runtime):
    return ssp.train(policy=policy, runtime=runtime, num_clocks=CLOCKS, **linear())


@in_both
@pytest.mark.every(2)
def test_bsp_is_one_large_batch_a_clock(world):
    result = run(ssp.BSP(), world(0))
    np.testing.assert_allclose(result.params["w"], synchronous()["w"], rtol=1e-5)
    assert (result.version, result.updates) == (CLOCKS, 4 * CLOCKS)
    assert set(result.schedule["staleness"]) == {0}
    assert ssp.check_contract(result.tape).max_start_lag == 0


def arrivals(result):
    """In which order the workers came to each barrier."""
    return [event.worker for _, event, _ in result.tape if hasattr(event, "clock")]


@in_both
@pytest.mark.every(2)
def test_the_bits_are_the_same_whoever_comes_first(world):
    results = [run(ssp.BSP(), world(seed)) for seed in range(3)]
    assert len({tuple(arrivals(result)) for result in results}) == 3
    first, *others = (bits(result.params) for result in results)
    assert others == [first, first]


@in_both
@pytest.mark.every(2)
def test_ssp_at_bound_0_gives_the_bits_of_bsp(world):
    expected = bits(run(ssp.BSP(), world(0)).params)
    assert bits(run(ssp.SSP(bound=0), world(1)).params) == expected
    assert bits(run(ssp.SSP(bound=0, adopt="lazy"), world(2)).params) == expected
