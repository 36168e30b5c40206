"""The claims of `null_case`, and what of its rows they are about."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from experiments.papers import common
from experiments.papers.null_case.runs import (
    BOUNDS,
    STALE,
)
from jax_ssp.report.papers import Claim, Rows

LITTLE = 0.05  # of the seconds: what is less is no saving
LOWER = 0.1  # of a loss: what is less is not lower


def at(rows: Rows, delay: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["delay"] == delay]


def seconds(rows: Rows, delay: str, label: str) -> float:
    """Virtual seconds that W steps take, of the clockwork."""
    own = [row for row in at(rows, delay) if row.get("policy") == label]
    return statistics.fmean(own[0]["seconds"])


def ratios(rows: Rows, delay: str, labels: Sequence[str]) -> tuple[list[float], str]:
    """Seconds of some methods over BSP's."""
    of = [seconds(rows, delay, label) / seconds(rows, delay, "BSP") for label in labels]
    said = ", ".join(f"{label} {ratio:.3f}" for label, ratio in zip(labels, of, strict=True))
    return of, f"of BSP's seconds a step: {said}"


def little_time_saved(rows: Rows) -> tuple[bool, str]:
    of, said = ratios(rows, "equal", STALE)
    return min(of) > 1 - LITTLE, said


def bound_saves_little(rows: Rows) -> tuple[bool, str]:
    found = [ratios(rows, delay, STALE[:2]) for delay in ("slow for good", "bursts of one")]
    holds = all(ratio > 1 - LITTLE for of, _ in found for ratio in of)
    return holds, f"{found[0][1]}; with bursts {found[1][1]}"


def none_better(rows: Rows) -> tuple[bool, str]:
    """Whether none of the others ends lower than BSP on the same seed, by the median."""
    own = at(rows, "equal")
    bulk = [common.finite(row["last"]) for row in common.runs(own, "BSP")]
    if not all(map(math.isfinite, bulk)):
        return False, "BSP diverged"
    of: dict[str, float] = {}
    for label in STALE:
        ends = [common.finite(row["last"]) for row in common.runs(own, label)]
        of[label] = statistics.median(end / one for end, one in zip(ends, bulk, strict=True))
    said = ", ".join(f"{label} {ratio:.3f}" for label, ratio in of.items())
    holds = all(1 - LOWER <= ratio < math.inf for ratio in of.values())
    return holds, f"last loss over BSP's of the same seed, median: {said}"


def sooner(rows: Rows, delay: str, axis: str, winners: Sequence[str]) -> tuple[bool, str]:
    """Whether the winners come nine tenths of BSP's way down no later than all the others."""
    own = at(rows, delay)
    ends = {label: common.last(own, label) for label in BOUNDS}
    bad = [label for label, end in ends.items() if not math.isfinite(end)]
    if bad:
        return False, f"{', '.join(bad)} diverged"
    start = common.runs(own, "BSP")[0]["values"][0]
    level = common.part_way(start, ends["BSP"], 0.9)
    needed = {label: common.time_to(own, label, level, axis) for label in BOUNDS}
    said = ", ".join(f"{label} {each:.4g}" for label, each in needed.items())
    worst = max(needed[label] for label in winners)
    best = min(needed[label] for label in BOUNDS if label not in winners)
    return common.at_most(worst, best), f"{axis} to loss {level:.2f}: {said}"


def local_steps_save(rows: Rows) -> tuple[bool, str]:
    """Whether DyLU takes less time a step, and comes lower in as many seconds."""
    own = at(rows, "slow for good")
    (ratio,), said = ratios(rows, "slow for good", ("BSP, DyLU(8)",))
    labels = ("BSP, DyLU(8)", "BSP, 8 steps", "SSP(3)", "BSP", "ASP")
    ends = {label: common.last(own, label) for label in labels}
    shown = ", ".join(f"{label} {loss:.3f}" for label, loss in ends.items())
    others = (ends["BSP"], ends["SSP(3)"])
    lower = math.isfinite(max(others)) and common.sooner(ends["BSP, DyLU(8)"], min(others))
    return ratio < 0.5 and lower, f"{said}; last loss: {shown}"


def lag_unbounded(rows: Rows) -> tuple[bool, str]:
    lags = {
        row["policy"]: row["max_lag"]
        for row in at(rows, "slow for good")
        if row["kind"] == "clockwork"
    }
    of, said = ratios(rows, "slow for good", ("ASP",))
    holds = of[0] < 0.5 and lags["ASP"] > 10 * lags["SSP(3)"]
    return holds, f"{said}; largest lag {lags['ASP']} clocks, of SSP(3) {lags['SSP(3)']}"


def passing_saves(rows: Rows, delay: str) -> tuple[bool, str]:
    of, said = ratios(rows, delay, STALE)
    return all(one > other for one, other in itertools.pairwise(of)) and of[1] < 0.8, said


CLAIMS: tuple[Claim, ...] = (
    Claim(
        f"equal devices: being stale saves less than {LITTLE:.0%} of the seconds",
        little_time_saved,
        "paper",
    ),
    Claim(
        f"equal devices: no stale method ends lower than BSP by more than {LOWER:.0%}",
        none_better,
        "paper",
    ),
    Claim(
        "equal devices: none comes nine tenths of the way in fewer updates than BSP",
        partial(sooner, delay="equal", axis="updates", winners=("BSP",)),
        "paper",
    ),
    Claim(
        "one device slow for good, or now and then: a bound saves less than "
        f"{LITTLE:.0%} of the seconds in the long run",
        bound_saves_little,
        "ours",
    ),
    Claim(
        "one device slow for good: with local steps by measured speed (DyLU) a step takes less "
        "than half of BSP's seconds, and the loss ends lower than BSP's and SSP(3)'s",
        local_steps_save,
        "ours",
    ),
    Claim(
        "there, a step under ASP takes less than half of them too, but its lag passes ten "
        "times that of SSP(3)",
        lag_unbounded,
        "ours",
    ),
    Claim(
        "bursts of each device in turn: SSP saves, SSP(3) more than a fifth, and the more the "
        "larger the bound",
        partial(passing_saves, delay="bursts of each"),
        "ours",
    ),
    Claim(
        "exponential slowdowns: so it does there",
        partial(passing_saves, delay="exponential"),
        "ours",
    ),
    Claim(
        "there, all stale methods come nine tenths of the way in no more seconds than BSP",
        partial(sooner, delay="exponential", axis="seconds", winners=STALE),
        "ours",
    ),
)
