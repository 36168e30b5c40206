"""Table and figure of `ssp`."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.ssp.runs import (
    LEVELS,
    PROBLEMS,
    SIZES,
    bounds,
    focus,
    needed,
    of,
    plot_reached,
    relative,
    waits,
)
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below
from jax_ssp.report.styles import style


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for workload in PROBLEMS:
        own = of(rows, workload)
        for row in common.table(own, "objective"):
            label = row["method"]
            to = {
                f"{axis} to {share:.0%}": needed(rows, workload, label, share, axis)
                for axis in ("updates", "seconds")
                for share in LEVELS[1:]
            }
            dropped = ("updates", "virtual seconds", "max staleness")
            kept = {name: value for name, value in row.items() if name not in dropped}
            found.append({"workload": workload, **kept, **to})
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(len(PROBLEMS), 3, width_ratios=(1, 1, 0.9))
    every: list[Any] = []
    for row, workload in zip(axes, PROBLEMS, strict=True):
        own = of(rows, workload)
        every = common.curves(own)
        for axis, what in zip(row[:2], ("updates", "seconds"), strict=True):
            draw_curves(axis, every, what, "objective")
            top = common.runs(own, "BSP")[0]["values"][0]
            low = min(common.last(own, label) for label in ("BSP", "SSP(3)", "ASP"))
            focus(axis, top, low)
        row[1].set(ylabel=None)
        row[1].set_xlim(0, max(run["total_seconds"] for run in common.runs(own, "BSP")))
        row[0].set_title(workload, loc="left")
    draw_waiting(axes[0, 2], rows)
    for axis, what in ((axes[1, 2], "seconds"), (axes[2, 2], "updates")):
        draw_needed(axis, rows, what)
    legend_below(figure, every)


def draw_waiting(axis: Axes, rows: Rows) -> None:
    for label in ("BSP", *(f"SSP({bound})" for bound in bounds(rows))):
        look = style(label)
        shares = [100 * waits(rows, label, workers) for workers in SIZES]
        axis.plot(SIZES, shares, color=look.color, ls=look.linestyle, marker=look.marker)
    axis.set_xscale("log", base=2)
    axis.set_xticks(SIZES, [str(workers) for workers in SIZES])
    axis.set(xlabel="workers", ylabel="time waited (%)", ylim=(-2, None))


def draw_needed(axis: Axes, rows: Rows, what: str) -> None:
    """What each bound needs, against BSP."""
    labels = ["BSP", *(f"SSP({bound})" for bound in bounds(rows))]
    looks = zip(("o", "^", "s"), ("-", "--", ":"), ("0", "0.3", "0.55"), strict=True)
    for number, (workload, (marker, dashes, grey)) in enumerate(zip(PROBLEMS, looks, strict=True)):
        ratios = [relative(rows, workload, label, what) for label in labels]
        look = {"marker": marker, "ls": dashes, "color": grey, "label": workload}
        plot_reached(axis, ratios, shift=0.12 * (number - 1), **look)
    axis.axhline(1, color="0.7", lw=0.8, zorder=0)
    axis.set_xticks(range(len(labels)), ["0", *(str(bound) for bound in bounds(rows))])
    axis.set(xlabel="bound (clocks)", ylabel=f"{what} to the level,\nagainst BSP")
    axis.set_title("at the edge: never", loc="left")
    if what == "seconds":
        axis.set_ylim(bottom=0)
        axis.legend(fontsize="x-small", loc="lower left")
