"""Whether a delay model is one: for ours, and for one of your own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from jax_ssp import checks
from jax_ssp.checks import function, integer
from jax_ssp.delays import CALL, LONGEST, DelayModel, check_delay
from jax_ssp.delays.base import draws_ahead
from jax_ssp.testing.require import hold, require

Tried: TypeAlias = tuple[DelayModel, int]
"""A model, and with how many workers."""

WORKERS = 3
CLOCKS = 40


def check_delay_model(delay: DelayModel, *, num_workers: int = WORKERS, seed: int = 0) -> None:
    """Check that a delay model is one: seconds that the seed decides, whatever the schedule.

    Each clock takes a time that is no less than 0 and finite, a Python or NumPy number. The same
    generator gives the same, whichever worker is asked first: what it draws for (worker, clock)
    does not depend on who else was asked, nor on how often it was called before.

    Args:
        delay: called as (worker, clock, steps, rng) -> seconds; such as `MyDelay(mean=2.0)`.
        num_workers: that it is tried with.
        seed: of what it draws.

    Raises:
        AssertionError: if it is none; it says what must hold, and how to see it again.
        TypeError, ValueError: if what is given cannot be called, or is no number.

    Example:
        >>> import jax_ssp as ssp
        >>> check_delay_model(ssp.delays.Exponential(mean=2.0))
    """
    delay = function("check_delay_model(delay=...)", delay, CALL)
    num_workers = integer("check_delay_model(num_workers=...)", num_workers, least=1, most=1000)
    seed = checks.seed("check_delay_model(seed=...)", seed)
    check_delay(delay, num_workers)
    for check in DELAY_CHECKS:
        hold(check, (delay, num_workers), seed)


def takes_seconds(tried: Tried, seed: int) -> None:
    """A clock takes a time that is finite and no less than 0, of any number of steps."""
    delay, num_workers = tried
    for steps in (1, 4):
        for worker in range(num_workers):
            rng = _rng(seed, worker)
            for clock in range(CLOCKS):
                seconds = delay(worker, clock, steps, rng)
                numbers = (int, float, np.number)
                require(isinstance(seconds, numbers), "seconds must be a number", repr(seconds))
                good = math.isfinite(seconds) and 0 <= seconds <= LONGEST
                require(good, f"worker {worker}, clock {clock}, {steps} steps", seconds)


def is_decided_by_the_seed(tried: Tried, seed: int) -> None:
    """What it draws for a worker is the same again, whoever else is asked, and when."""
    delay, num_workers = tried
    workers = range(num_workers)

    def drawn(order: Callable[[int], range]) -> list[list[float]]:
        rngs = [_rng(seed, worker) for worker in workers]
        rows = [list[float]() for _ in workers]
        for clock in range(CLOCKS):
            for worker in order(clock):
                rows[worker].append(float(delay(worker, clock, 1, rngs[worker])))
        return rows

    first = drawn(lambda clock: workers)
    again, turned = drawn(lambda clock: workers), drawn(lambda clock: workers[::-1])
    require(again == first, "asked again it gives others: it must draw from `rng` alone")
    require(turned == first, "asked in another order it gives others")


def draws_ahead_the_same(tried: Tried, seed: int) -> None:
    """What it draws ahead, if it does, is what calls one by one give, in any blocks."""
    delay, num_workers = tried
    if not draws_ahead(delay):
        return
    for worker in range(num_workers):
        rng, ahead = _rng(seed, worker), _rng(seed, worker)
        blocks = [delay.ahead(worker, count, ahead) for count in (1, CLOCKS - 1)]
        if blocks == [None, None]:
            require(ahead.random() == rng.random(), f"`ahead` of worker {worker} draws for nothing")
            continue
        one_by_one = [delay(worker, clock, 1, rng) for clock in range(CLOCKS)]
        drawn = [seconds for block in blocks for seconds in block or ()]
        require(drawn == one_by_one, f"`ahead` gives worker {worker} others than calls one by one")


DELAY_CHECKS = (takes_seconds, is_decided_by_the_seed, draws_ahead_the_same)


def _rng(seed: int, worker: int) -> np.random.Generator:
    return np.random.default_rng([seed, worker])
