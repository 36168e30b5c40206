"""The claims of `error_runtime`, and what of its rows they are about."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.papers import common
from experiments.papers.error_runtime.runs import (
    DELAYS,
    PROBLEMS,
    WORKERS,
    expected,
)
from jax_ssp.report.papers import Claim, Rows

FAST, SLOW = "KAsync(1)", "KSync(8)"


def at_one_rate(rows: Rows, problem: str) -> list[Mapping[str, Any]]:
    """The runs of a problem at the rate that is common to all methods."""
    return [row for row in common.runs(rows) if row["problem"] == problem and row["common"]]


def seconds(rows: Rows, delay: str, kind: str, k: int) -> float:
    (row,) = [
        row
        for row in rows
        if row["kind"] == "runtime" and (row["delay"], row["policy"], row["k"]) == (delay, kind, k)
    ]
    return float(np.mean(row["seconds"]))


def formulas_hold(rows: Rows, kinds: tuple[str, ...]) -> tuple[bool, str]:
    errors = [
        abs(seconds(rows, "exponential", kind, k) / expected(kind, k) - 1)
        for kind in kinds
        for k in range(1, WORKERS + 1)
    ]
    return max(errors) < 0.05, f"off by {100 * max(errors):.1f} % at most"


def never_slower(rows: Rows, pairs: tuple[tuple[str, str], ...]) -> tuple[bool, str]:
    """Whether the first of each pair takes no less time than the second."""
    ratios = [
        seconds(rows, delay, slow, k) / seconds(rows, delay, fast, k)
        for delay in DELAYS
        for slow, fast in pairs
        for k in range(1, WORKERS + 1)
    ]
    said = f"the others take {min(ratios):.2f} to {max(ratios):.2f} times as long"
    return min(ratios) > 0.97, said  # as near as the draws are


def floor(rows: Rows, problem: str, label: str) -> float:
    """The mean loss over the last quarter of a run: the median over the seeds."""
    return statistics.median(
        float(np.mean([common.finite(each) for each in row["values"]][-len(row["values"]) // 4 :]))
        for row in common.runs(at_one_rate(rows, problem), label)
    )


def curves_cross(rows: Rows, problem: str) -> tuple[bool, str]:
    """Whether asynchronous comes to half of the way first, and synchronous lower in the end."""
    own = at_one_rate(rows, problem)
    ends = [floor(rows, problem, label) for label in (FAST, SLOW)]
    level = (own[0]["values"][0] + max(ends)) / 2
    times = [common.time_to(own, label, level) for label in (FAST, SLOW)]
    said = (
        f"rate {own[0]['rate']:g}: loss {level:.2f} after {times[0]:.3g} and {times[1]:.3g} s; in "
        f"the last quarter {ends[0]:.3g} and {ends[1]:.3g}"
    )
    return times[0] < times[1] and ends[1] < ends[0], said


def ends_lower(rows: Rows, problem: str, pairs: tuple[tuple[str, str], ...]) -> tuple[bool, str]:
    """Whether the first of each pair is lower than the second once both have come down."""
    ends = {label: floor(rows, problem, label) for pair in pairs for label in pair}
    said = ", ".join(f"{label} {end:.4g}" for label, end in ends.items())
    lower = all(common.sooner(ends[one], ends[other]) for one, other in pairs)
    return lower, f"in the last quarter {said}"


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "K-sync takes the K-th order statistic of P exponentials, (H_P - H_{P-K}) / mu",
        functools.partial(formulas_hold, kinds=("KSync",)),
        "paper",
    ),
    Claim(
        "K-async takes the same, since exponential delays have no memory",
        functools.partial(formulas_hold, kinds=("KAsync",)),
        "paper",
    ),
    Claim(
        "both batch variants take K / (P mu)",
        functools.partial(formulas_hold, kinds=("KBatchAsync", "KBatchSync")),
        "paper",
    ),
    Claim(
        "K-async is never slower than K-sync, for either kind of delays",
        functools.partial(never_slower, pairs=(("KSync", "KAsync"),)),
        "paper",
    ),
    Claim(
        "the batch variants are never slower than those without",
        functools.partial(never_slower, pairs=(("KSync", "KBatchSync"), ("KAsync", "KBatchAsync"))),
        "paper",
    ),
    *(
        Claim(
            f"asynchronous is ahead first, synchronous in the end: they cross ({problem})",
            functools.partial(curves_cross, problem=problem),
            "paper",
        )
        for problem in PROBLEMS
    ),
    Claim(
        "the more deltas an iteration has, the lower it ends (logistic regression)",
        functools.partial(
            ends_lower,
            problem="logistic regression",
            pairs=(("KAsync(4)", "KAsync(1)"), ("KSync(8)", "KSync(4)")),
        ),
        "paper",
    ),
    Claim(
        "with as many deltas K-sync ends lower than K-async (logistic regression)",
        functools.partial(
            ends_lower, problem="logistic regression", pairs=(("KSync(4)", "KAsync(4)"),)
        ),
        "paper",
    ),
)
