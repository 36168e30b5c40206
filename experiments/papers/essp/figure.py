"""Table and figure of `essp`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.papers import common
from experiments.papers.essp.runs import (
    LEVEL,
    NAMES,
    PROBLEMS,
    bounds,
    counts,
    differential,
    shown,
    staleness,
)
from experiments.papers.ssp.runs import focus, needed, of, plot_reached, relative
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below

LOOKS = {"lazy": ("0.65", "s", "--"), "eager": ("0.1", "o", "-")}


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for workload in PROBLEMS:
        for label in ("BSP", *(f"{name}({b})" for b in bounds(rows) for name in NAMES.values())):
            own = common.runs(of(rows, workload), label)
            rate = common.marked(own[0]["rate"], common.tried_rates(of(rows, workload), label))
            row: Row = {"workload": workload, "method": label, "best rate": rate}
            row["last objective, median (range)"] = common.spread(run["last"] for run in own)
            for axis in ("updates", "seconds"):
                row[f"{axis} to {LEVEL:.0%}"] = needed(rows, workload, label, LEVEL, axis)
            row["mean staleness (versions)"] = round(staleness(rows, workload, label), 1)
            if label != "BSP":
                for delay in ("even", "uneven"):
                    mean = round(differential(rows, delay, label), 1)
                    row[f"mean differential, {delay} clocks"] = mean
            found.append(row)
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(len(PROBLEMS) + 1, 3)
    for row, workload in zip(axes, PROBLEMS, strict=False):
        draw_workload(row, rows, workload)
    every = bounds(rows)
    for axis, bound in zip(axes[-1], (every[(len(every) - 1) // 2], every[-1]), strict=False):
        draw_reads(axis, rows, bound)
    axes[-1, 0].set_ylabel("share of reads, even clocks")
    for delay, fill in (("even", "full"), ("uneven", "none")):
        for adopt, name in NAMES.items():
            color, marker, dashes = LOOKS[adopt]
            ages = [-differential(rows, delay, f"{name}({bound})") for bound in every]
            label = f"{adopt}, {delay} clocks"
            look = {"color": color, "marker": marker, "ls": dashes, "fillstyle": fill}
            axes[-1, 2].plot(range(len(every)), ages, label=label, **look)
    axes[-1, 2].set_xticks(range(len(every)), [str(bound) for bound in every])
    axes[-1, 2].set(xlabel="bound (clocks)", ylabel="mean age of a read:\n- differential (clocks)")
    axes[-1, 2].legend(fontsize="x-small", loc="upper left")
    legend_below(figure, common.curves(of(rows, next(iter(PROBLEMS))), shown(rows)))


def draw_workload(axes: np.ndarray, rows: Rows, workload: str) -> None:
    """Lazy beside eager curves, one colour a bound, and the updates that each bound needs."""
    own = of(rows, workload)
    start = common.runs(own, "BSP")[0]["values"][0]
    low = common.last(own, "BSP")
    for axis, adopt in zip(axes, NAMES, strict=False):
        labels = [label.replace("SSP", NAMES[adopt]) for label in shown(rows)]
        own_curves = [
            replace(curve, label=curve.label.replace("ESSP", "SSP"))
            for curve in common.curves(own, labels)
        ]
        draw_curves(axis, own_curves, "updates", "objective")
        focus(axis, start, low)
        axis.set_title(f"{NAMES[adopt]}: {adopt} reads", loc="left")
    axes[0].set_ylabel(f"{workload}\nobjective")
    axes[1].set(ylabel=None)
    for adopt, name in NAMES.items():
        color, marker, dashes = LOOKS[adopt]
        ratios = [relative(rows, workload, f"{name}({bound})", "updates") for bound in bounds(rows)]
        look = {"color": color, "marker": marker, "ls": dashes, "label": adopt}
        plot_reached(axes[2], ratios, **look)
    axes[2].axhline(1, color="0.8", lw=0.8, zorder=0)
    axes[2].set_xticks(range(len(ratios)), [str(bound) for bound in bounds(rows)])
    axes[2].set(xlabel="bound (clocks)", ylabel="updates to the level,\nagainst BSP")
    axes[2].set_title("at the edge: never", loc="left")
    axes[2].legend(fontsize="x-small", loc="lower right")


def draw_reads(axis: Axes, rows: Rows, bound: int) -> None:
    for shift, (adopt, name) in zip((0.2, -0.2), NAMES.items(), strict=True):
        shares = counts(rows, "even", f"{name}({bound})")
        at = -np.arange(len(shares)) - shift
        axis.bar(at[1:], shares[1:], width=0.4, color=LOOKS[adopt][0], label=adopt)
    axis.set_title(f"bound {bound}", loc="left")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.set(xlabel="clock differential (clocks)")
    axis.legend()
