"""Table and figure of `depth`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.papers import common
from experiments.papers.depth.claims import base
from experiments.papers.depth.runs import (
    cells,
    labels,
    middle,
)
from jax_ssp.report.papers import Row, Rows


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    heads = {each: column(rows, each) for each in sorted({row["staleness"] for row in rows})}
    for family in ("optimizer", "depth"):
        for label in labels(rows, family):
            row: Row = {"updates to the target, at the best rate": NAMES[family].format(label)}
            for each in cells(rows, family, label):
                row[heads[each["staleness"]]] = entry(each)
            found.append(row)
    return found


def entry(cell: Mapping[str, Any]) -> str:
    """Median and range of the updates, and the rate."""
    if all(tried["updates"] is None for tried in cell["swept"]):
        return "inf, at every rate"
    rate = common.marked(cell["rate"], (tried["rate"] for tried in cell["swept"]))
    return f"{common.spread(cell['updates'], digits=5)} at {rate}"


def column(rows: Rows, staleness: int) -> str:
    """With the mean staleness that was measured, which the first round lowers."""
    means = [row["mean_staleness"] for row in rows if row["staleness"] == staleness]
    low, high = f"{min(means):.3g}", f"{max(means):.3g}"
    return f"staleness {staleness} (measured {low if low == high else f'{low} to {high}'})"


NAMES = {"optimizer": "{}, hidden layers: 1", "depth": "SGD, hidden layers: {}"}
LOOKS = {
    "optimizer": ("#000000", "#0072b2", "#d55e00", "#2f9e8f", "#cc79a7"),
    "depth": ("#a6cbe3", "#5a9bc8", "#2f6a9f", "#12304f"),
}
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (4, 1.2, 1, 1.2)),
    (0, (1.2, 1)),
    (0, (5, 1.2, 2, 1.2)),
)


def panel(axis: Axes, rows: Rows, family: str) -> None:
    """Updates over those without staleness; an arrow up where the target was not reached.

    Nothing is drawn of a label that did not reach it without staleness.
    """
    for index, label in enumerate(labels(rows, family)):
        colour = LOOKS[family][index % len(LOOKS[family])]
        own = cells(rows, family, label)
        points = [(row["staleness"], middle(row) / base(own)) for row in own]
        reached = [point for point in points if point[1] < math.inf]
        look: dict[str, Any] = {"color": colour, "linestyle": DASHES[index % len(DASHES)]}
        across, up = [x for x, _ in reached], [y for _, y in reached]
        axis.plot(across, up, marker="os^Dv"[index % 5], label=label, **look)
        for row, point in zip(own, points, strict=True):
            if point[1] == math.inf:
                limit = row["most_updates"] / base(own)
                axis.plot(point[0], limit, color=colour, marker="$\\uparrow$", markersize=9)
    axis.set(xlabel="staleness (versions, after the first round)", yscale="log")
    axis.set_ylabel("updates to the target,\nover those at staleness 0")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks(sorted({row["staleness"] for row in rows}))
    axis.legend(title=None if family == "optimizer" else "hidden layers")


def draw(figure: Figure, rows: Rows) -> None:
    titles = {"optimizer": "(a) optimizers, 1 hidden layer", "depth": "(b) depth, under SGD"}
    for axis, (family, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        panel(axis, rows, family)
        axis.set_title(title, loc="left")
