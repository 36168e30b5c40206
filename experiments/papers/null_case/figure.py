"""Table and figure of `null_case`."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.figure import Figure

from experiments.papers import common
from experiments.papers.null_case.claims import at, seconds
from experiments.papers.null_case.runs import (
    DELAYS,
    METHODS,
    TITLES,
    TRAINED,
)
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.plots import draw_curves


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for delay in DELAYS:
        for label in METHODS:
            row: Row = {"devices": delay, "method": label}
            row["virtual s for W steps"] = round(seconds(rows, delay, label), 3)
            own = common.runs(at(rows, delay), label)
            tried = common.tried_rates(at(rows, delay), label)
            stale = (run["mean_staleness"] for run in own)
            row["best rate"] = common.marked(own[0]["rate"], tried) if own else ""
            row["last test loss, median (range)"] = (
                common.spread(run["last"] for run in own) if own else ""
            )
            row["mean staleness (versions)"] = f"{statistics.fmean(stale):.2f}" if own else ""
            found.append(row)
    return found


def draw(figure: Figure, rows: Rows) -> None:
    axes = figure.subplots(2, 2).flatten()
    panels: list[tuple[str, Any]] = [
        ("equal", "updates"),
        ("equal", "seconds"),
        ("slow for good", "seconds"),
        ("exponential", "seconds"),
    ]
    seen: dict[str, Any] = {}
    for axis, letter, (delay, what) in zip(axes, "abcd", panels, strict=True):
        draw_curves(axis, common.curves(at(rows, delay), TRAINED[delay]), what, "test loss")
        axis.set_title(f"({letter}) {TITLES[delay]}", loc="left")
        handles, labels = axis.get_legend_handles_labels()
        seen |= dict(zip(labels, handles, strict=True))
    seeds = len(common.runs(at(rows, "equal"), "BSP"))
    title = f"lines: median over {seeds} seeds; bands: their range" if seeds > 1 else None
    place = {"loc": "outside lower center", "ncols": 6, "handlelength": 2.8}
    figure.legend(seen.values(), seen, title=title, **place)
