"""The same in formulas and in arrays: what the real controller does, for more workers than it can.

`bounded` and `quorum` are recursions over whole clocks, a row of NumPy arrays at a time; the tables
show them beside the real controller where both are there. `rigid`, `one_program` and `young` are
formulas. Goodput is the work of the clocks that were merged over what the workers could have done.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from experiments.benchmarks.scale.clocks import Clocks, Failing

NEVER = math.inf


class Modelled(NamedTuple):
    """What a model gives.

    Attributes:
        goodput: share of the workers' time in clocks that were merged.
        failures: how many there were.
    """

    goodput: float
    failures: int


def young(stall: float, mtbf: float) -> float:
    """The interval between checkpoints that costs least, to first order (seconds).

    Reference:
        Young 1974, "A first order approximation to the optimum checkpoint interval",
        doi:10.1145/361147.361115.
    """
    return math.sqrt(2 * stall * mtbf)


def rigid(failing: Failing, workers: int, interval: float | None = None) -> float:
    """The share of useful time where any failure stops all, and all fall back to a checkpoint.

    In the mean a run lasts m seconds until one of the workers fails, then nobody does anything
    until it is noticed, and all is loaded again. Of the run the whole intervals remain, of which
    there are 1 / (exp((interval + stall) / m) - 1) in the mean. Who does not run does not fail.

    Args:
        failing: of a worker.
        workers: that all stop.
        interval: between checkpoints (seconds); by default Young's.
    """
    mtbf = failing.among(workers)
    interval = young(failing.stall, mtbf) if interval is None else interval
    kept = interval / math.expm1((interval + failing.stall) / mtbf)
    return kept / (mtbf + failing.detect + failing.restart)


def one_program(failing: Failing, workers: int) -> float:
    """The share of useful time where any failure holds up all for a while, and nothing is lost.

    Who stands still does not fail, so m seconds of work are followed by one pause in the mean.
    """
    mtbf = failing.among(workers)
    return mtbf / (mtbf + failing.pauses)


def barrier(clocks: Clocks, workers: int, rng: np.random.Generator, count: int = 20_000) -> float:
    """The share of a clock that workers compute for, where all wait for the slowest."""
    return float(clocks.draw(rng, count).mean() / clocks.slowest(rng, count, workers).mean())


def bounded(
    bound: int,
    workers: int,
    clocks: Clocks,
    failing: Failing,
    count: int,
    seed: int,
    since: int = 0,
) -> Modelled:
    """SSP with this bound, at bound 0 BSP, for so many clocks of each worker.

    A worker starts clock c once it has finished c - 1 and all have finished c - bound - 1 (the
    contract, with merging that takes no time). One that fails is waited for until that is noticed.
    Who comes in its place enters, in the middle of a clock, at the clock of the slowest. The first
    `since` clocks are not counted.
    """
    rng = np.random.default_rng(seed)
    finish = np.zeros(workers)
    reached = [0.0] * (bound + 1)  # at clock + bound: when all have finished so many clocks
    back = np.full(workers, -NEVER)  # when who is away comes
    useful, failures, noticed, pace, began = 0.0, 0, 0.0, clocks.seconds, 0.0
    for clock in range(count):
        if clock == since:
            useful, failures, began = 0.0, 0, _mean(finish)
        start = np.maximum(finish, reached[clock])
        taken = clocks.draw(rng, workers)
        away = back > -NEVER
        finish = start + taken
        dies = ~away & (rng.random(workers) < -math.expm1(-pace / failing.mtbf))
        at = start[dies] + rng.random(int(dies.sum())) * pace
        loses = dies.copy()
        loses[dies] = at < finish[dies]  # else it is done with this clock, and waits
        slowest = max(noticed, finish[~away & ~loses].max(initial=reached[-1]))
        noticed = (at + failing.detect).max(initial=0.0)
        slowest = max(slowest, (at[loses[dies]] + failing.detect).max(initial=0.0))
        enters = away & (back < slowest)
        finish[enters] = back[enters] + taken[enters]
        slowest = finish[enters].max(initial=slowest)
        useful += taken[~loses & (enters | ~away)].sum()
        failures += len(at)
        back[enters] = -NEVER
        back[dies] = at + failing.detect + failing.back
        finish[back > -NEVER] = -NEVER
        pace = max(clocks.seconds, slowest - reached[-1])
        reached.append(slowest)
    away = back > -NEVER
    finish[away] = np.maximum(_mean(finish), back[away] - failing.back)  # when it was noticed
    return Modelled(float(useful / (finish.sum() - workers * began)), failures)


def _mean(finish: np.ndarray) -> float:
    """When those who are here have finished their clocks, in the mean."""
    return float(finish[finish > -NEVER].mean())


def quorum(
    share: float,
    grace: float,
    workers: int,
    clocks: Clocks,
    failing: Failing,
    count: int,
    seed: int,
) -> Modelled:
    """A quorum of so large a share of the workers, then `grace` seconds, for so many merges.

    Who has pushed by then starts anew with the merge; who comes later is part of the next one. If
    nobody runs any more, as far as is known, nothing is waited for.
    """
    rng = np.random.default_rng(seed)
    fails_in = -math.expm1(-clocks.seconds / failing.mtbf)
    taken = clocks.draw(rng, workers)
    begun = np.zeros(workers)  # of who is away: when somebody comes in its place
    useful, failures, now = 0.0, 0, 0.0
    needed = max(1, int(share * workers)) - 1
    merged = np.full(workers, True)
    for _ in range(count):
        lost = (merged & (rng.random(workers) < fails_in)).nonzero()[0]
        failures += len(lost)
        begun[lost] += rng.random(len(lost)) * taken[lost] + failing.detect + failing.back
        pushes = begun + taken
        closes = float(np.partition(pushes, needed)[needed]) + grace
        runs_until = np.where(begun <= closes, pushes, begun - failing.back)
        now = max(now, min(closes, float(runs_until.max())))
        merged = pushes <= now
        useful += taken[merged].sum()
        begun[merged] = now
        taken[merged] = clocks.draw(rng, int(merged.sum()))
    return Modelled(float(useful / (workers * now)), failures)
