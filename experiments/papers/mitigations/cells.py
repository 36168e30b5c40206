"""What is looked up in the rows of a cell (a method in a setting), and how lines are drawn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from experiments.papers import common
from jax_ssp.report.papers import Rows
from jax_ssp.report.styles import Style, style

# Colours of methods that are no policies; the two that are ASP look like it.
LOOKS = {
    "ASGD": style("ASP"),
    "staleness-aware": Style("#ff1493", (0, (5, 1.5)), "P"),
    "Gap-Aware": Style("#4b0082", "-", "s"),
    "EASGD": Style("#dc143c", "-", "D"),
    "DOWNPOUR": style("ASP"),
    "DOWNPOUR, mean": Style("#708090", (0, (5, 1.5)), "^"),
}


def where(rows: Rows, **fields: Any) -> list[Mapping[str, Any]]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(name) == it for name, it in fields.items())]


def numbers(rows: Rows, column: str) -> list[float]:
    """Of every seed; what is not a number counts as infinite."""
    return [common.finite(row[column]) for row in rows]


def median(rows: Rows, column: str) -> float:
    """Over the seeds."""
    return statistics.median(numbers(rows, column))


def best_rate(rows: Rows) -> float:
    """The rate of the lowest last loss on seed 0, of the rows of a cell."""
    tried = {row["rate"]: median([row], "loss") for row in rows if row["seed"] == 0}
    return min(tried, key=tried.__getitem__)


def of_best(rows: Rows) -> Rows:
    """Of the rows of a cell those at its best rate."""
    return where(rows, rate=best_rate(rows))


def at_best(rows: Rows, column: str) -> float:
    """The median of a column at the best rate, of the rows of a cell."""
    return median(of_best(rows), column)


def marked_rate(rows: Rows) -> str:
    """The best rate of a cell, with a mark if it is at the edge of those tried."""
    return common.marked(best_rate(rows), [row["rate"] for row in rows])


def staleness(rows: Rows) -> str:
    """The mean of versions at the best rate, of the rows of a cell."""
    return f"{statistics.fmean(row['mean_staleness'] for row in of_best(rows)):.2f}"


def draw_line(
    axis: Axes, at: Sequence[float], seeds: Sequence[Sequence[float]], **look: Any
) -> None:
    """The median over the seeds at each place, in a band, their range; not what is infinite."""
    middle = [statistics.median(each) for each in seeds]
    low, high = [min(each) for each in seeds], [max(each) for each in seeds]
    middle, low, high = (
        [each if math.isfinite(each) else math.nan for each in line] for line in (middle, low, high)
    )
    axis.plot(at, middle, **look)
    axis.fill_between(np.asarray(at), low, high, color=look["color"], alpha=0.18, linewidth=0)


def log_scale(axis: Axes) -> None:
    """Values on a logarithmic scale, with plain numbers; if there are any."""
    axis.xaxis.set_minor_locator(NullLocator())
    if not any(np.isfinite(line.get_ydata()).any() for line in axis.lines):
        return
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
