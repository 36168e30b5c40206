"""What the papers' files share: learning rates swept alike for all, runs as rows, curves drawn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import jax_ssp as ssp
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import Curve

Make = Callable[[float, int], ssp.Experiment]  # (learning rate, seed) -> what to run


def swept(
    methods: Mapping[str, Make], rates: Sequence[float], seeds: int, metric: str
) -> list[Row]:
    """Run every method at every rate on seed 0, then at its best rate on all seeds.

    Args:
        methods: by label.
        rates: learning rates, the same for all.
        seeds: how many.
        metric: of the evaluations, a loss; the best rate is the one whose last value is smallest.

    Returns:
        Rows of kind "swept" (each method, each rate, the last value) and of kind "run".
    """
    rows: list[Row] = []
    for label, make in methods.items():
        tried = {rate: run_row(label, make(rate, 0), rate, metric) for rate in rates}
        for rate, row in tried.items():
            rows.append({"kind": "swept", "label": label, "rate": rate, "last": row["last"]})
        best = min(tried, key=lambda rate: finite(tried[rate]["last"]))
        rows.append(tried[best])
        rows += [run_row(label, make(best, seed), best, metric) for seed in range(1, seeds)]
    return rows


def run(experiment: ssp.Experiment) -> ssp.Result:
    """Run it to its end."""
    return whole(experiment.run())


def whole(result: ssp.Result) -> ssp.Result:
    """What was given; what Ctrl-C has cut short is no result, and interrupts."""
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return result


def run_row(label: str, experiment: ssp.Experiment, rate: float, metric: str) -> Row:
    """One run as plain numbers: its curve, and what its schedule was like."""
    result = run(experiment)
    merged = result.schedule[result.schedule["merge_version"] >= 0]
    stale = merged["staleness"]
    values = [row["metrics"][metric] for row in result.evaluations]
    return {
        "kind": "run",
        "label": label,
        "rate": rate,
        "seed": experiment.seed,
        "status": result.status,
        "last": values[-1],
        "metrics": result.metrics,
        "updates": [row["updates"] for row in result.evaluations],
        "seconds": [row["time"] for row in result.evaluations],
        "values": values,
        "total_updates": result.updates,
        "total_seconds": result.seconds,
        "computing": result.computing,
        "mean_staleness": float(stale.mean()) if len(stale) else 0.0,
        "max_staleness": int(stale.max(initial=0)),
        "staleness": np.bincount(stale).tolist() if len(stale) else [],
    }


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


def marked(rate: float, tried: Iterable[float]) -> str:
    """A best rate as a table shows it, with a mark if it is at the edge of those tried."""
    rates = sorted(set(tried))
    if len(rates) > 1 and rate in (rates[0], rates[-1]):
        return f"{rate:g} ({'smallest' if rate == rates[0] else 'largest'} tried)"
    return f"{rate:g}"


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


def finite(value: float | None) -> float:
    """A loss as a number; infinite where it diverged."""
    return value if value is not None and math.isfinite(value) else math.inf


def _first(row: Mapping[str, Any], level: float, axis: str) -> float:
    if not math.isfinite(level) or not math.isfinite(finite(row["last"])):
        return math.inf
    reached = (
        at for at, value in zip(row[axis], row["values"], strict=True) if finite(value) <= level
    )
    return next(reached, math.inf)
