"""Elastic averaging in training is EASGD, as a loop by hand has it."""

import heapq

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp

RATE, STEPS = 0.1, 4
SECONDS = (1.0, 1.37, 2.11)
TARGETS = np.array([[1.0, -2.0], [3.0, 0.5], [-1.0, 4.0]])


def by_hand(alpha, clocks):
    """Algorithm 1 of the paper: local steps, then worker and center pull each other, at once.

    Both halves of the force see worker and center as they were before.
    """
    center = np.zeros(2)
    workers = np.zeros((3, 2))
    events = [(STEPS * seconds, number, 1) for number, seconds in enumerate(SECONDS)]
    heapq.heapify(events)
    while events:
        now, number, done = heapq.heappop(events)
        for _ in range(STEPS):
            workers[number] -= RATE * 2 * (workers[number] - TARGETS[number])
        pull = alpha * (workers[number] - center)
        workers[number] -= pull
        center = center + pull
        if done < clocks:
            heapq.heappush(events, (now + STEPS * SECONDS[number], number, done + 1))
    return center


def trained(alpha, mix, clocks):
    def loss(params, batch, key):
        return jnp.sum((params["w"] - batch) ** 2), {}

    return ssp.train(
        ssp.make_step(loss, optax.sgd(RATE)),
        params={"w": jnp.zeros(2)},
        data=lambda worker: iter([TARGETS[worker].astype(np.float32)] * 999),
        policy=ssp.ASP(),
        runtime=ssp.Virtual(3, ssp.delays.PerWorker(SECONDS)),
        num_clocks=clocks,
        local_steps=STEPS,
        delta_tx=ssp.mitigations.elastic_average(alpha),
        weight="sum",
        adopt=ssp.Mix(mix),
    ).params["w"]


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5])
@pytest.mark.every(3)
def test_with_the_right_mix_it_is_easgd(alpha):
    for clocks in (1, 2, 7):
        expected = by_hand(alpha, clocks)
        found = trained(alpha, (1 - 2 * alpha) / (1 - alpha), clocks)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # `Mix(1 - alpha)` is weaker, since the center that it mixes in has moved already.
    assert not np.allclose(trained(alpha, 1 - alpha, 7), expected, rtol=1e-3)
