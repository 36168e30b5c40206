"""The claims of `gap`, and what of its rows they are about."""

from __future__ import annotations

import math
from functools import partial

from experiments.papers import common
from experiments.papers.mitigations import cells
from experiments.papers.mitigations.gap.runs import METHODS, alone
from jax_ssp.report.papers import Claim, Rows

FAILS = 10  # points of the error, or more
NEAR = 1  # a point


def error(rows: Rows, label: str, workers: int, rate: float | None = None) -> float:
    """The median test error (%) at a rate, by default the best of this cell."""
    own = cells.where(rows, study="gap", label=label, workers=workers)
    if rate is None:
        return cells.at_best(own, "error")
    return cells.median(cells.where(own, rate=rate), "error")


def several(rows: Rows) -> list[int]:
    return sorted({row["workers"] for row in cells.where(rows, study="gap")} - {1})


def said(rows: Rows, rate: float | None) -> str:
    of = "the best rates" if rate is None else f"rate {rate:g}"
    parts = [
        f"W = {workers}: "
        + ", ".join(f"{label} {error(rows, label, workers, rate):.1f}" for label in METHODS)
        for workers in several(rows)
    ]
    single = error(rows, "ASGD", 1)
    return f"test error (%) at {of}: W = 1: {single:.1f}; {'; '.join(parts)}"


def fails(rows: Rows) -> tuple[bool, str]:
    rate = alone(rows)
    single, many = (error(rows, "ASGD", workers, rate) for workers in (1, several(rows)[-1]))
    return common.sooner(single + FAILS, many), said(rows, rate)


def keeps(rows: Rows) -> tuple[bool, str]:
    """Whether Gap-Aware with the most workers is as good as one worker, at the rate of that one."""
    rate = alone(rows)
    single = error(rows, "ASGD", 1, rate)
    many = error(rows, "Gap-Aware", several(rows)[-1], rate)
    return math.isfinite(single) and common.at_most(many, single + NEAR), said(rows, rate)


def below(rows: Rows, other: str, swept: bool) -> tuple[bool, str]:
    """Whether Gap-Aware's error is below another's with the most workers, by a point or more."""
    rate = None if swept else alone(rows)
    most = several(rows)[-1]
    holds = common.at_most(error(rows, "Gap-Aware", most, rate), error(rows, other, most, rate) - 1)
    return holds and math.isfinite(error(rows, "ASGD", 1)), said(rows, rate)


CLAIMS = (
    Claim(
        "Gap-Aware: with the most workers ASGD at a single worker's rate fails, its error being "
        f"more than {FAILS} points above that of one worker",
        fails,
        "paper",
    ),
    Claim(
        "with the most workers at that rate, Gap-Aware's error is within a point of that of one "
        "worker",
        keeps,
        "paper",
    ),
    *(
        Claim(
            f"with the most workers, {'each at its own best' if swept else 'at that'} rate, "
            f"Gap-Aware's error is at least a point below that of {other}",
            partial(below, other=other, swept=swept),
            "ours" if swept else "paper",
        )
        for swept in (False, True)
        for other in ("ASGD", "staleness-aware")
    ),
)
