"""Table and figure of `ringmaster`."""

from __future__ import annotations

import math
import statistics

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.ringmaster.claims import by_workers, of, seconds
from experiments.papers.ringmaster.runs import (
    ASGD,
    DELAYS,
    LABELS,
    PLAIN,
)
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below
from jax_ssp.report.styles import style


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    workers = of(rows, next(iter(DELAYS)))[0]["workers"]
    swept = [row for row in rows if row["kind"] == "swept" and row["workers"] == workers]
    for kind in DELAYS:
        for label in LABELS:
            own = common.runs(of(rows, kind), label)
            size, rate = own[0]["parameter"], own[0]["rate"]
            tried = [row for row in swept if (row["delay"], row["label"]) == (kind, label)]
            sizes = [row["parameter"] for row in tried]
            rates = [row["rate"] for row in tried if row["parameter"] == size]
            mean, reached = statistics.fmean, seconds(rows, kind, label)
            found.append(
                {
                    "delays": kind,
                    "method": label,
                    "R or batch": "" if size is None else common.marked(size, sizes),
                    "step size": common.marked(rate, rates),
                    "last gap, median (range)": common.spread(row["last"] for row in own),
                    "virtual s to the gap": reached if math.isfinite(reached) else None,
                    "updates": mean(row["total_updates"] for row in own),
                    "dropped or cancelled, %": 100 * mean(row["thrown_away"] for row in own),
                    "mean staleness": mean(row["mean_staleness"] for row in own),
                    "max staleness": max(row["max_staleness"] for row in own),
                }
            )
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 3)
    for (left, middle, _), (kind, formula) in zip(axes, DELAYS.items(), strict=True):
        every = common.curves(of(rows, kind), LABELS)
        draw_curves(left, every, "updates", "f(x) − f*")
        draw_curves(middle, every, "seconds", "f(x) − f*")
        for axis in (left, middle):
            seen = any(np.isfinite(line.get_ydata()).any() for line in axis.lines)
            axis.set_yscale("log" if seen else "linear")
        middle.set(ylabel=None)
        left.set_title(f"{kind}: delays {formula}", loc="left")
    _draw_workers(axes[0][2], rows)
    _draw_bound(axes[1][2], rows)
    legend_below(figure, every)


def _draw_workers(axis: Axes, rows: Rows) -> None:
    for label in (ASGD, PLAIN):
        times, look = by_workers(rows, label), style(label)
        axis.plot(list(times), list(times.values()), **look._asdict())
    axis.set_xscale("log")
    axis.set_xticks(list(times), [str(each) for each in times])
    axis.minorticks_off()
    axis.margins(y=0.2)
    axis.set(xlabel="workers", ylabel="virtual seconds to one gap", ylim=(0, None))
    axis.set_title("root", loc="left")


def _draw_bound(axis: Axes, rows: Rows) -> None:
    color = style(PLAIN).color
    for kind, mark in zip(DELAYS, ("o", "s"), strict=True):
        own = [row for row in rows if row["kind"] == "update times" and row["delay"] == kind]
        for stops, fill in ((True, "white"), (False, color)):
            dots = [(row["R"], max(row["of the bound"])) for row in own if row["stops"] is stops]
            look = {"marker": mark, "markerfacecolor": fill, "markersize": 7 if stops else 4}
            name = kind + (", stops" if stops else "")
            axis.plot(*zip(*dots, strict=True), color=color, ls="none", label=name, **look)
    axis.axhline(1, color="0.4", lw=1)
    axis.set_xscale("log")
    ticks = sorted({row["R"] for row in rows if row["kind"] == "update times"})
    axis.set_xticks(ticks, [str(each) for each in ticks])
    axis.minorticks_off()
    axis.set(xlabel="R (versions)", ylabel="longest R updates / t(R)", ylim=(0, 1.1))
    axis.legend(
        loc="center", bbox_to_anchor=(0.5, 0.75), ncols=2, handletextpad=0, columnspacing=0.6
    )
