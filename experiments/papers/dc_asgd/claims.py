"""The claims of `dc_asgd`, and what of its rows they are about."""

from __future__ import annotations

import functools
import math

from experiments.papers import common
from experiments.papers.dc_asgd.runs import (
    ADAPTIVE,
    ASGD,
    CONSTANT,
    SEQUENTIAL,
    SMALL,
    SSGD,
    WORKERS,
    at_best,
    lasts,
    of,
    rates,
)
from jax_ssp.report.papers import Claim, Rows

FAILED = 2.0  # a test loss near that of a guess, 2.3, or above
SHARES = (0.95, 0.99)  # of the way from the first loss to the last


def pairs_at_equal_rates(rows: Rows, label: str) -> tuple[bool, str]:
    """Whether it is below ASGD in three quarters of pairs at equal rate, workers and seed."""
    said: list[str] = []
    won = counted = 0
    for workers in WORKERS:
        for rate in rates(rows):
            own = of(rows, workers, rate)
            pairs = zip(lasts(own, label), lasts(own, ASGD), strict=True)
            learned = [pair for pair in pairs if min(pair) < FAILED]
            below = sum(one < other for one, other in learned)
            won, counted = won + below, counted + len(learned)
            if learned:
                said.append(f"{workers} workers at {rate:g}: {below} of {len(learned)}")
    total = f"lower in {won} of {counted} pairs of which one learns"
    return won >= 0.75 * counted > 0, f"{total} ({'; '.join(said)})"


def beats(rows: Rows, label: str, other: str) -> tuple[bool, str]:
    """Whether, each at its best rate, it is lower for every seed, at 8 and at 4 workers."""
    said: list[str] = []
    holds = True
    for workers in WORKERS:
        own = at_best(rows, workers)
        below = [one < two for one, two in zip(lasts(own, label), lasts(own, other), strict=True)]
        holds &= all(below)
        ends = f"{common.last(own, label):.3f} against {common.last(own, other):.3f}"
        said.append(f"{workers} workers {ends}, lower for {sum(below)} of {len(below)} seeds")
    return holds, "; ".join(said)


def near_sequential(rows: Rows, label: str) -> tuple[bool, str]:
    """Whether, each at its best rate, its loss is at most a tenth above sequential SGD's."""
    found: list[str] = []
    holds = True
    for workers in WORKERS:
        own = at_best(rows, workers)
        ends = [common.last(own, each) for each in (label, SEQUENTIAL)]
        holds &= math.isfinite(ends[1]) and common.at_most(ends[0], ends[1], 1.1)
        found.append(f"{workers} workers {ends[0]:.3f} against {ends[1]:.3f}")
    return holds, "; ".join(found)


def adaptive_is_best(rows: Rows) -> tuple[bool, str]:
    """Whether adaptive, at its best rate, ends no higher than either constant at its best."""
    said: list[str] = []
    holds = True
    for workers in WORKERS:
        own = at_best(rows, workers)
        ends = [common.last(own, label) for label in (ADAPTIVE, SMALL, CONSTANT)]
        holds &= common.at_most(ends[0], min(ends[1:]))
        said.append(f"{workers} workers {ends[0]:.3f} against {ends[1]:.3f} and {ends[2]:.3f}")
    return holds, "; ".join(said)


def more_workers_hurt(rows: Rows) -> tuple[bool, str]:
    """Whether ASGD ends higher with 8 workers than with 4, each at its best rate, every seed."""
    owns = [at_best(rows, workers) for workers in WORKERS]
    ends = [common.last(own, ASGD) for own in owns]
    above = [one > two for one, two in zip(*(lasts(own, ASGD) for own in owns), strict=True)]
    said = f"{ends[0]:.3f} with {WORKERS[0]}, {ends[1]:.3f} with {WORKERS[1]}"
    return all(above), f"{said}, higher for {sum(above)} of {len(above)} seeds"


def sooner(rows: Rows, other: str) -> tuple[bool, str]:
    """Whether adaptive is at both levels in fewer seconds than the other, with 8 and 4 workers."""
    said: list[str] = []
    holds = True
    for workers in WORKERS:
        own = at_best(rows, workers)
        for share in SHARES:
            level, times = common.race(own, ADAPTIVE, other, share)
            holds &= common.sooner(*times)
            at = f"{workers} workers, loss {level:.3g}"
            said.append(f"{at}: {times[0]:.4g} and {times[1]:.4g} s")
    return holds, "; ".join(said)


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            f"at equal rates DC-ASGD, {label}, ends lower than ASGD in three quarters of pairs",
            functools.partial(pairs_at_equal_rates, label=label),
            "paper",
        )
        for label in (SMALL, CONSTANT, ADAPTIVE)
    ),
    *(
        Claim(
            f"each at its best rate DC-ASGD, {label}, ends lower than ASGD for every seed",
            functools.partial(beats, label=label, other=ASGD),
            "ours",
        )
        for label in (SMALL, CONSTANT, ADAPTIVE)
    ),
    Claim(
        "it comes near sequential SGD (adaptive: a loss at most a tenth higher)",
        functools.partial(near_sequential, label=ADAPTIVE),
        "paper",
    ),
    Claim("adaptive is at least as good as either constant", adaptive_is_best, "paper"),
    Claim(
        "at equal updates SSGD is behind DC-ASGD (adaptive) for every seed",
        functools.partial(beats, label=ADAPTIVE, other=SSGD),
        "paper",
    ),
    Claim(
        "each at its best rate ASGD is worse with 8 workers than with 4 for every seed",
        more_workers_hurt,
        "ours",
    ),
    *(
        Claim(
            f"DC-ASGD (adaptive) is sooner in seconds than {label} at both 95 and 99 % of the "
            "way to the last loss of that",
            functools.partial(sooner, other=label),
            "paper",
        )
        for label in (SSGD, SEQUENTIAL)
    ),
)
