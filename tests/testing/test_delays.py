"""Delay models that no run could repeat are caught, each for what is wrong with it."""

import itertools
import random

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.testing import check_delay_model
from tests.delays.test_delays import MODELS

COUNT = itertools.count()


@pytest.mark.parametrize("delay", MODELS, ids=lambda delay: type(delay).__name__)
def test_a_model_that_keeps_the_contract_passes(delay):
    check_delay_model(delay, num_workers=2)


class Ahead:
    """Each worker has a mean of its own; drawn ahead unless it is the last."""

    def __call__(self, worker, clock, steps, rng):
        return (1 + worker) * sum(rng.standard_exponential() for _ in range(steps))

    def ahead(self, worker, count, rng):
        if worker == 2:
            return None
        return [(1 + worker) * seconds for seconds in rng.standard_exponential(count)]


def test_a_model_of_ones_own_may_draw_ahead():
    check_delay_model(Ahead())


class AheadForAll(Ahead):
    __call__ = Ahead.__call__

    def ahead(self, worker, count, rng):
        return rng.standard_exponential(count).tolist()


class DrawsForNothing(AheadForAll):
    __call__ = Ahead.__call__

    def ahead(self, worker, count, rng):
        super().ahead(worker, count, rng)


LAST = []


def remembers(worker, clock, steps, rng):
    """Who was asked before decides."""
    LAST.append(worker)
    return 1.0 + (LAST[-2:] == [0, 1])


BROKEN = {
    "negative": (lambda worker, clock, steps, rng: 1.0 - clock, "finite and no less than 0"),
    "nan": (lambda worker, clock, steps, rng: float("nan"), "finite and no less than 0"),
    "text": (lambda worker, clock, steps, rng: "1", "seconds must be a number"),
    "steps": (lambda worker, clock, steps, rng: [1.0][steps - 1], "IndexError"),
    "chance": (lambda worker, clock, steps, rng: random.random(), "asked again"),
    "global": (lambda worker, clock, steps, rng: next(COUNT), "asked again"),
    "another generator": (
        lambda worker, clock, steps, rng: np.random.default_rng().random(),
        "asked again",
    ),
    "order": (remembers, "in another order"),
    "ahead": (AheadForAll(), "`ahead` gives worker 1 others"),
    "ahead for nothing": (DrawsForNothing(), "draws for nothing"),
}


@pytest.mark.parametrize(("delay", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_caught_and_seen_again(delay, said):
    with pytest.raises(AssertionError, match=rf"(?s){said}.*See it again: .*seed=4"):
        check_delay_model(delay, seed=4)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"`check_delay_model\(delay=...\)` must be a function"):
        check_delay_model(3)
    with pytest.raises(ValueError, match=r"one for each|2 workers|entries"):
        check_delay_model(ssp.delays.PerWorker((1.0,)), num_workers=2)
