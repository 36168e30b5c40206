"""Table and figure of `staleness_aware`."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.staleness_aware.claims import DIVIDED
from experiments.papers.staleness_aware.runs import (
    DELAYS,
    PARTS,
    accuracies,
    at,
    at_common,
    best,
    measured,
)
from experiments.staleness_scaling import METHODS
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below

PLAIN = tuple(label for label in METHODS if not label.endswith(DIVIDED))
SCALED = ("BSP", *(label for label in METHODS if label.endswith(DIVIDED)))
SHADES: dict[str, tuple[str, Any]] = {
    "Softsync(1)": ("#e59aa6", (0, (5, 1.5))),
    "Softsync(15)": ("#b8405a", (0, (1.2, 1))),
    "Softsync(30)": ("#5c1027", (0, (4, 1.2, 1, 1.2))),
}


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    shared = at_common(rows)
    for label in METHODS:
        runs, own = common.runs(shared, label), at(rows, best(rows, label))
        rates = sorted({row["rate"] for row in common.runs(rows)})
        losses = {rate: common.last(at(rows, rate), label) for rate in rates}
        found.append(
            {
                "method": label,
                "staleness, mean": statistics.fmean(row["mean_staleness"] for row in runs),
                "max": max(row["max_staleness"] for row in runs),
                "virtual seconds": statistics.fmean(row["total_seconds"] for row in runs),
                f"accuracy at {runs[0]['rate']:g}": common.spread(accuracies(shared, label)),
                "best rate": common.marked(best(rows, label), rates),
                "accuracy there": common.spread(accuracies(own, label)),
                **{
                    f"loss at {rate:g}": loss if math.isfinite(loss) else "diverged"
                    for rate, loss in losses.items()
                },
            }
        )
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplot_mosaic("abs\ncds")
    for names, labels, what in (("ab", PLAIN, "as it is"), ("cd", SCALED, "divided")):
        own = common.curves(at_common(rows), labels)
        every = [replace(curve, label=curve.label.removesuffix(DIVIDED)) for curve in own]
        draw_curves(axes[names[0]], every, "updates", "test loss")
        draw_curves(axes[names[1]], every, "seconds", "test loss")
        for name in names:
            tell_apart(axes[name])
        axes[names[1]].set(ylabel=None)
        axes[names[0]].set_title(f"rate {best(rows, 'BSP'):g}, {what}", loc="left")
        for name in names:
            axes[name].set(yscale="log", ylim=(0.05, 10))
    draw_staleness(axes["s"], rows)
    legend_below(figure, common.curves(at_common(rows), PLAIN))


def tell_apart(axis: Axes) -> None:
    """Give each n its shade of Softsync's colour, from light to dark, and its dashes."""
    bands = list(axis.collections)  # one for each line, or none if there is one seed
    for index, line in enumerate(axis.get_lines()):
        look = SHADES.get(str(line.get_label()))
        if look is None:
            continue
        shade, dashes = look
        line.set(color=shade, linestyle=dashes, markerfacecolor=shade, markeredgecolor=shade)
        if bands:
            bands[index].set_facecolor(shade)


def draw_staleness(axis: Axes, rows: Rows) -> None:
    """Mean and largest staleness by n, with equal workers and with those of the training."""
    axis.plot(PARTS, PARTS, "k-", lw=0.7, zorder=0, label="n")
    axis.plot(PARTS, 2 * np.array(PARTS), "k--", lw=0.7, zorder=0, label="2n")
    looks = zip(DELAYS, ("o", "^", "s"), ("0", "0.35", "0.6"), (8, 5.5, 3), strict=True)
    for delay, marker, grey, size in looks:
        own = list(measured(rows, {delay: None}))
        about: dict[str, Any] = {"ls": "none", "marker": marker, "color": grey, "ms": size}
        axis.plot(PARTS, [statistics.fmean(row["mean"]) for row in own], label=delay, **about)
        axis.plot(PARTS, [max(row["max"]) for row in own], mfc="none", **about)
    axis.set(xscale="log", yscale="log", xlabel="n (merges a round)", ylabel="staleness (versions)")
    for ticks, ruler in ((PARTS, axis.xaxis), ((1, 2, 5, 10, 20, 50, 100), axis.yaxis)):
        ruler.set_ticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_title("full: mean, empty: max", loc="left")
    axis.legend(fontsize="x-small")
