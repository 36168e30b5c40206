"""Table and figure of `error_runtime`."""

from __future__ import annotations

import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.error_runtime.claims import at_one_rate, floor, seconds
from experiments.papers.error_runtime.runs import (
    KINDS,
    PROBLEMS,
    TRAINED,
    WORKERS,
    expected,
)
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below
from jax_ssp.report.styles import looks, style


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for problem in PROBLEMS:
        for label in TRAINED:
            own = common.runs(at_one_rate(rows, problem), label)
            swept = [
                row
                for row in common.runs(rows, label)
                if row["problem"] == problem and row["seed"] == 0
            ]
            best = min(swept, key=lambda row: common.finite(row["last"]))
            found.append(
                {
                    "problem": problem,
                    "method": label,
                    "common rate": own[0]["rate"],
                    "last loss, median (range)": common.spread(row["last"] for row in own),
                    "last quarter": floor(rows, problem, label),
                    "best rate (seed 0)": common.marked(best["rate"], [r["rate"] for r in swept]),
                    "last loss at it": best["last"],
                    "updates": statistics.fmean(row["total_updates"] for row in own),
                    "mean staleness": statistics.fmean(row["mean_staleness"] for row in own),
                }
            )
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 3)
    for (left, middle, _), problem in zip(axes, PROBLEMS, strict=True):
        own = at_one_rate(rows, problem)
        every, metric = common.curves(own), PROBLEMS[problem].metric
        draw_curves(left, every, "updates", metric)
        draw_curves(middle, every, "seconds", metric)
        middle.set(ylabel=None)
        left.set_title(f"{problem}, learning rate {own[0]['rate']:g}", loc="left")
        for axis in (left, middle):
            axis.set(yscale="log")
    _draw_runtimes(axes[0][2], rows)
    _draw_rates(axes[1][2], rows, "logistic regression")
    legend_below(figure, every)


def _draw_runtimes(axis: Axes, rows: Rows) -> None:
    ks = range(1, WORKERS + 1)
    for kind in KINDS:
        look = style(kind)
        measured = [seconds(rows, "exponential", kind, k) for k in ks]
        # Those that cancel take as long as those that do not: rings around dots.
        ring = {"markersize": 8, "markerfacecolor": "none"} if kind.endswith("Sync") else {}
        axis.plot(ks, measured, color=look.color, marker="o", ls="none", label=kind, **ring)
        axis.plot(ks, [expected(kind, k) for k in ks], color=look.color, lw=0.8)
    axis.set(xlabel="K (deltas a merge)", ylabel="virtual seconds an iteration")
    axis.set_title("lines: the formulas", loc="left")
    axis.legend()


def _draw_rates(axis: Axes, rows: Rows, problem: str) -> None:
    own = [row for row in common.runs(rows) if row["problem"] == problem and row["seed"] == 0]
    for label, look in looks(list(TRAINED)).items():
        dots = sorted((row["rate"], common.finite(row["last"])) for row in common.runs(own, label))
        axis.plot(*zip(*dots, strict=True), **look)
    axis.set(xscale="log", yscale="log", xlabel="learning rate")
    axis.set(ylabel=f"last {PROBLEMS[problem].metric}")
    axis.set_title(f"{problem}, seed 0", loc="left")
