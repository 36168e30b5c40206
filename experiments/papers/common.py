"""What is looked up in the rows of all papers: runs, levels, medians, curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.study.study import finite, marked
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import Curve


def runs(rows: Rows, label: str | None = None) -> list[Mapping[str, Any]]:
    """The rows of runs, of one label or all."""
    return [
        row for row in rows if row.get("kind") == "run" and (label is None or row["label"] == label)
    ]


def last(rows: Rows, label: str) -> float:
    """The median over the seeds of the last value; infinite where it diverged."""
    return statistics.median(finite(row["last"]) for row in runs(rows, label))


def time_to(rows: Rows, label: str, level: float, axis: str = "seconds") -> float:
    """When a loss first came down to a level: the median over the seeds, infinite if it never did.

    A run that diverged later counts as one that never did, and no loss comes down to a level that
    is not finite, as one made of what diverged is.

    Args:
        rows: of a result.
        label: the method.
        level: of the values.
        axis: "seconds" or "updates".
    """
    return statistics.median(_first(row, level, axis) for row in runs(rows, label))


def race(rows: Rows, label: str, other: str, share: float) -> tuple[float, tuple[float, float]]:
    """The level at a share of the other's way, and the seconds to it of one and of the other."""
    level = part_way(runs(rows, other)[0]["values"][0], last(rows, other), share)
    return level, (time_to(rows, label, level), time_to(rows, other, level))


def part_way(start: float | None, end: float | None, share: float) -> float:
    """The loss at such a share of the way from one to another; infinite if either is no number."""
    first, last = finite(start), finite(end)
    return first + share * (last - first) if math.isfinite(first + last) else math.inf


def sooner(one: float, other: float, share: float = 1.0) -> bool:
    """Whether a number that was measured is below such a share of another, maybe infinite."""
    return math.isfinite(one) and one < share * other


def at_most(one: float, other: float, share: float = 1.0) -> bool:
    """Whether a number that was measured is no more than such a share of another."""
    return math.isfinite(one) and one <= share * other


def tried_rates(rows: Rows, label: str) -> list[float]:
    """Of a method, from its rows of kind "swept"."""
    return [row["rate"] for row in rows if row.get("kind") == "swept" and row["label"] == label]


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Median and range."""
    several = [finite(value) for value in values]
    low, high = min(several), max(several)
    return f"{statistics.median(several):.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"


def table(rows: Rows, metric: str) -> list[Row]:
    """A row a method: best rate, what it came to, its seconds and its staleness."""
    found: list[Row] = []
    for label in dict.fromkeys(row["label"] for row in runs(rows)):
        own = runs(rows, label)
        mean = statistics.fmean
        found.append(
            {
                "method": label,
                "best rate": marked(own[0]["rate"], tried_rates(rows, label)),
                f"last {metric}, median (range)": spread(row["last"] for row in own),
                "updates": mean(row["total_updates"] for row in own),
                "virtual seconds": mean(row["total_seconds"] for row in own),
                "computing, %": 100 * mean(row["computing"] for row in own),
                "mean staleness": mean(row["mean_staleness"] for row in own),
                "max staleness": max(row["max_staleness"] for row in own),
            }
        )
    return found


def curves(rows: Rows, labels: Sequence[str] | None = None) -> list[Curve]:
    """The curves of all runs, or of some labels in their order."""
    chosen = labels or list(dict.fromkeys(row["label"] for row in runs(rows)))
    return [
        Curve(
            label,
            row["seed"],
            *(
                np.array([math.nan if each is None else each for each in row[name]], dtype=float)
                for name in ("updates", "seconds", "values")
            ),
        )
        for label in chosen
        for row in runs(rows, label)
    ]


def _first(row: Mapping[str, Any], level: float, axis: str) -> float:
    if not math.isfinite(level) or not math.isfinite(finite(row["last"])):
        return math.inf
    reached = (
        at for at, value in zip(row[axis], row["values"], strict=True) if finite(value) <= level
    )
    return next(reached, math.inf)
