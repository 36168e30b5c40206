"""Under a constant staleness, gradient descent is stable exactly where the theory has it.

With W workers in lock-step, merging on arrival, every delta is W - 1 versions old, so on a
quadratic of curvature L each merge is w(n+1) = w(n) - eta L w(n - tau), tau = W - 1. All roots of
z^(tau+1) - z^tau + eta L lie inside the unit circle exactly if
eta L < 2 sin(pi / (2 (2 tau + 1))): Levin and May 1976, "A note on difference-delay equations",
Theoretical Population Biology 9, 178-187.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp

CURVATURE = 3.0


def quadratic(params, batch, key):
    return CURVATURE / 2 * params["w"] ** 2, {"w": params["w"]}


def limit(tau):
    return 2 * np.sin(np.pi / (2 * (2 * tau + 1)))


def growth(tau, gain):
    """Magnitude of the largest root of z^(tau+1) - z^tau + gain."""
    polynomial = np.zeros(tau + 2)
    polynomial[0] += 1
    polynomial[1] += -1
    polynomial[-1] += gain
    return np.abs(np.roots(polynomial)).max()


def descend(tau, gain, num_merges):
    """What each merge's gradient was taken at, in order, from w = 1."""
    workers = tau + 1
    result = ssp.train(
        ssp.make_step(quadratic, optax.sgd(gain / CURVATURE)),
        params={"w": jnp.float32(1)},
        data=lambda worker: itertools.repeat(np.float32(0)),
        policy=ssp.ASP(),
        runtime=ssp.Virtual(num_workers=workers),
        num_clocks=num_merges // workers,
        weight="sum",
    )
    return result, np.array([row["metrics"]["w"] for row in result.history])


@pytest.mark.parametrize("tau", [0, 1, 3, 7])
def test_in_lock_step_every_delta_is_as_old_as_there_are_others(tau):
    result, read = descend(tau, 0.1, num_merges=12 * (tau + 1))
    staleness = result.schedule["staleness"]
    assert staleness[: tau + 1].tolist() == list(range(tau + 1))  # all start on version 0
    assert set(staleness[tau + 1 :]) == {tau}
    w = [1.0]
    for merge in range(len(read)):
        w.append(w[-1] - 0.1 * w[max(0, merge - tau)])
    np.testing.assert_allclose(result.params["w"], w[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(read, [w[max(0, n - tau)] for n in range(len(read))], atol=1e-5)


@pytest.mark.parametrize("factor", [0.98, 1.02])
@pytest.mark.parametrize("tau", [0, 1, 3, 7])
@pytest.mark.every(11)
def test_descent_is_stable_exactly_below_the_limit_for_its_delay(tau, factor):
    gain = factor * limit(tau)
    rate = growth(tau, gain)
    assert (rate < 1) == (factor < 1)
    # Long enough for a change by a factor of 20, after a transient of a few periods.
    period = 4 * tau + 2
    transient, stretch = 5 * period, int(np.log(20) / abs(np.log(rate)))
    stretch -= stretch % period
    _, read = descend(tau, gain, transient + stretch + 2 * period)
    early = np.abs(read[transient : transient + period]).max()
    late = np.abs(read[transient + stretch : transient + stretch + period]).max()
    assert late < early / 10 if factor < 1 else late > 10 * early
    assert (late / early) ** (1 / stretch) == pytest.approx(rate, rel=2e-4)
