"""The claims of `backup`, and what of its rows they are about."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from experiments.papers import common
from experiments.papers.mitigations import cells
from experiments.papers.mitigations.backup.runs import (
    MERGED,
    SETTINGS,
    TOTAL,
)
from jax_ssp.report.papers import Claim, Rows

MORE = 1.5  # times the iterations, or more
GROWING, FIXED = SETTINGS


def every_iterations(row: Mapping[str, Any]) -> list[float]:
    """To the target, of each seed; infinite if it was not reached."""
    return [common.finite(each) for each in row["iterations"]]


def iterations(row: Mapping[str, Any]) -> float:
    """To the target, the median over the seeds."""
    return statistics.median(every_iterations(row))


def every_seconds(row: Mapping[str, Any]) -> list[float]:
    """To the target, of each seed: its iterations times what one takes in the long run."""
    return [
        needed * takes for needed, takes in zip(every_iterations(row), row["pace"], strict=True)
    ]


def each_takes(row: Mapping[str, Any]) -> float:
    """Seconds an iteration, the median over the seeds."""
    return statistics.median(row["pace"])


def seconds(row: Mapping[str, Any]) -> float:
    return statistics.median(every_seconds(row))


def column(
    rows: Rows, setting: str, of: Callable[[Mapping[str, Any]], float]
) -> tuple[list[int], list[float], str]:
    own = cells.where(rows, study="backup", setting=setting)
    values = [of(row) for row in own]
    backups = [row["b"] for row in own]
    said = ", ".join(f"b = {b}: {value:.4g}" for b, value in zip(backups, values, strict=True))
    return backups, values, said


def faster_iterations(rows: Rows) -> tuple[bool, str]:
    found = [column(rows, setting, each_takes) for setting in SETTINGS]
    holds = all(values == sorted(values, reverse=True) for _, values, _ in found)
    parts = [f"{setting}: {said}" for setting, (_, _, said) in zip(SETTINGS, found, strict=True)]
    return holds, f"seconds an iteration: {'; '.join(parts)}"


def more_needed(rows: Rows) -> tuple[bool, str]:
    _, values, said = column(rows, FIXED, iterations)
    return common.at_most(MORE * values[0], values[-1]), f"iterations to the target: {said}"


def optimum_between(rows: Rows) -> tuple[bool, str]:
    _, values, said = column(rows, FIXED, seconds)
    best = values.index(min(values))
    return 0 < best < len(values) - 1, f"virtual seconds to the target: {said}"


def backups_save(rows: Rows) -> tuple[bool, str]:
    _, values, said = column(rows, GROWING, seconds)
    holds = all(common.sooner(value, values[0]) for value in values[1:])
    return holds and math.isfinite(values[0]), f"virtual seconds to the target: {said}"


CLAIMS = (
    Claim("Backup workers: the more backups, the faster an iteration", faster_iterations, "paper"),
    Claim(
        f"{MERGED} + b workers: every b > 0 comes to the target sooner than b = 0",
        backups_save,
        "paper",
    ),
    Claim(
        f"{TOTAL} in all: with most of them backups, {MORE:g} times as many iterations are needed, "
        "or more",
        more_needed,
        "paper",
    ),
    Claim(
        f"{TOTAL} in all: the time to the target is shortest in between", optimum_between, "paper"
    ),
)
