"""Cells of a table: one method in one setting, its rates swept."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

import jax_ssp as ssp
from jax_ssp.report.papers import Row, Rows


class Make(Protocol):
    """What a cell runs."""

    def __call__(self, rate: float, seed: int) -> ssp.Experiment: ...


def ran(
    about: Row, make: Make, rates: Sequence[float], seeds: int, also: Sequence[float] = ()
) -> list[Row]:
    """A row for every rate on seed 0, and for the best of them, and those of `also`, on all."""
    rows = [{**about, **_ended(make, rate, 0)} for rate in rates]
    for rate in sorted({best_rate(rows), *also}):
        rows += [{**about, **_ended(make, rate, seed)} for seed in range(1, seeds)]
    return rows


def _ended(make: Make, rate: float, seed: int) -> Row:
    run = make(rate, seed).run()
    end = run.evaluations[-1]
    merged = run.schedule["staleness"][run.schedule["merge_version"] >= 0]
    return {
        "rate": rate,
        "seed": seed,
        "loss": end["test_loss"],
        "error": 100 * (1 - end["test_accuracy"]),
        "mean_staleness": float(merged.mean()) if len(merged) else 0.0,
    }


def where(rows: Rows, **fields: Any) -> list[Mapping[str, Any]]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(name) == it for name, it in fields.items())]


def median(rows: Rows, column: str) -> float:
    """Over the seeds; what is not a number counts as infinite."""
    values = [row[column] for row in rows]
    return statistics.median(
        value if value is not None and math.isfinite(value) else math.inf for value in values
    )


def best_rate(rows: Rows) -> float:
    """The rate of the lowest last loss on seed 0, of the rows of a cell."""
    tried = {row["rate"]: median([row], "loss") for row in rows if row["seed"] == 0}
    return min(tried, key=tried.__getitem__)


def at_best(rows: Rows, column: str) -> float:
    """The median of a column at the best rate, of the rows of a cell."""
    return median(where(rows, rate=best_rate(rows)), column)


def log_scale(axis: Axes) -> None:
    """Values on a logarithmic scale, with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
