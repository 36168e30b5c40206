"""Table and figure of `dc_asgd`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.papers import common
from experiments.papers.dc_asgd.runs import (
    LABELS,
    SEQUENTIAL,
    SSGD,
    WORKERS,
    at_best,
    best,
    lasts,
    of,
    rates,
)
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import draw_curves, legend_below
from jax_ssp.report.styles import style


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for workers in (1, *WORKERS):
        for label in LABELS[1:] if workers > 1 else (SEQUENTIAL,):
            rate = best(rows, workers, label)
            own = common.runs(of(rows, workers, rate), label)
            ends = {each: common.last(of(rows, workers, each), label) for each in rates(rows)}
            accurate = [row["metrics"].get("test_accuracy") for row in own]
            found.append(
                {
                    "method": label,
                    "workers": workers,
                    "best rate": common.marked(rate, rates(rows)),
                    "last test loss, median (range)": common.spread(lasts(own, label)),
                    "test accuracy": statistics.median(each or 0.0 for each in accurate),
                    "virtual seconds": own[0]["total_seconds"],
                    "staleness, mean": own[0]["mean_staleness"],
                    "max": max(row["max_staleness"] for row in own),
                    **{f"at {rate:g}": _shown(end) for rate, end in ends.items()},
                }
            )
    return found


def _shown(loss: float) -> float | str:
    return loss if math.isfinite(loss) else "diverged"


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 3, width_ratios=(1, 1, 0.9))
    for row, workers in zip(axes, WORKERS, strict=True):
        own = at_best(rows, workers)
        every = common.curves(own)
        draw_curves(row[0], every, "updates", "test loss")
        draw_curves(row[1], every, "seconds", "test loss")
        row[1].set(ylabel=None)
        row[0].set_title(f"{workers} workers, at the best rates", loc="left")
        row[1].set_xlim(0, 1.05 * max(run["total_seconds"] for run in common.runs(own, SSGD)))
        whole = max(run["total_seconds"] for run in common.runs(own, SEQUENTIAL))
        row[1].set_title(f"sequential: to {whole:.0f} s", loc="left")
        for axis in row[:2]:
            axis.set(yscale="log", ylim=(0.04, 3))
        draw_rates(row[2], rows, workers, row[0].get_lines())
    legend_below(figure, every)


def draw_rates(axis: Axes, rows: Rows, workers: int, looks: Iterable[Line2D]) -> None:
    """Where each comes to at every rate, the median over the seeds; cut off at 5."""
    for look in looks:
        ends = [common.last(of(rows, workers, rate), str(look.get_label())) for rate in rates(rows)]
        fill: dict[str, Any] = {"marker": look.get_marker(), "mfc": look.get_markerfacecolor()}
        line: dict[str, Any] = {
            "color": look.get_color(),
            "ls": style(str(look.get_label())).linestyle,
            **fill,
        }
        axis.plot(rates(rows), [min(end, 5.0) for end in ends], **line)
    axis.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="last test loss")
    axis.set_xticks(rates(rows), [f"{rate:g}" for rate in rates(rows)], rotation=60)
    axis.minorticks_off()
    axis.set_title("5: diverged", loc="left")
