"""Table and figure of `dssp`."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.dssp.claims import accuracy, fixed, of, seconds, trained, waiting
from experiments.papers.dssp.runs import (
    BOUNDS,
    DELAYS,
    DRAWN,
    LOWER,
    OURS,
    PRINTED,
    UPPER,
)
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below
from jax_ssp.report.styles import style


def table(rows: Rows) -> list[Row]:
    return [
        {
            "method": label,
            "devices": setting,
            "waiting, %": waiting(rows, setting, label),
            **trained_columns(rows, setting, label),
        }
        for setting in DELAYS
        for label in trained(rows)
    ]


def trained_columns(rows: Rows, setting: str, label: str) -> Row:
    own = common.runs(of(rows, setting), label)
    return {
        "best rate": common.marked(own[0]["rate"], common.tried_rates(of(rows, setting), label)),
        "test loss, median (range)": common.spread(row["last"] for row in own),
        "test accuracy, %": accuracy(rows, setting, label),
        "virtual s to the loss": seconds(rows, setting, label),
        "mean staleness": statistics.fmean(row["mean_staleness"] for row in own),
    }


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 3)
    for (left, middle, right), setting in zip(axes, DELAYS, strict=True):
        every = common.curves(of(rows, setting), DRAWN)
        draw_curves(left, every, "updates", "test loss")
        draw_curves(middle, every, "seconds", "test loss")
        middle.set(ylabel=None)
        left.set_title(setting, loc="left")
        draw_waiting(right, rows, setting)
    legend_below(figure, every)


def draw_waiting(axis: Axes, rows: Rows, setting: str) -> None:
    """By the bound of SSP; not from 0 where all are far from it."""
    shares = dict(zip(BOUNDS, fixed(rows, setting), strict=True))
    for bound, share in shares.items():
        look = style(f"SSP({bound})")
        axis.plot(bound, share, color=look.color, marker=look.marker)
    lines = {label: waiting(rows, setting, label) for label in (OURS, PRINTED)}
    for label, dashes in ((OURS, "-"), (PRINTED, "--")):
        axis.axhline(lines[label], color=style("DSSP").color, ls=dashes, lw=1.2, zorder=1)
    every = [*shares.values(), *lines.values()]
    low, high = min(every), max(every)
    cut = 0 < high - low < low
    bottom = low - 0.3 * (high - low) if cut else 0.0
    axis.set_ylim(bottom, high + 0.3 * (high - bottom))
    ours_above = lines[OURS] >= lines[PRINTED]
    for label, above in ((OURS, ours_above), (PRINTED, not ours_above)):
        about: dict[str, Any] = {"xytext": (0, 2 if above else -2), "textcoords": "offset points"}
        place = {"ha": "right", "va": "bottom" if above else "top", "fontsize": 8}
        axis.annotate(label, (UPPER, lines[label]), **about, **place)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.set(xlabel="bound of SSP (clocks)", ylabel="time waiting (%)")
    axis.set_xticks(range(LOWER, UPPER + 1, 3))
    if cut:
        axis.set_title("not from 0", loc="left")
