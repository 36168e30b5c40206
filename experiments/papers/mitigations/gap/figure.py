"""Table and figure of `gap`."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from experiments.papers import common
from experiments.papers.mitigations import cells
from experiments.papers.mitigations.gap.claims import several
from experiments.papers.mitigations.gap.runs import METHODS, alone
from jax_ssp.report.papers import Row, Rows


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for label in METHODS:
        for workers in [1] * (label == "ASGD") + several(rows):
            own = cells.where(rows, study="gap", label=label, workers=workers)
            fixed = common.spread(cells.numbers(cells.where(own, rate=alone(rows)), "error"))
            found.append(
                {
                    "study": f"{label}, test error (%)",
                    "setting": f"W = {workers}",
                    "median (range)": common.spread(cells.numbers(cells.of_best(own), "error")),
                    "best rate": cells.marked_rate(own),
                    "mean staleness": cells.staleness(own),
                    "other": f"loss {cells.at_best(own, 'loss'):.3f}; error {fixed} at "
                    f"rate {alone(rows):g}",
                }
            )
    return found


def draw(axis: Axes, rows: Rows) -> None:
    rate = alone(rows)
    for label in METHODS:
        at = ([1] if label == "ASGD" else []) + several(rows)
        own = [cells.where(rows, study="gap", label=label, workers=w) for w in at]
        look = cells.LOOKS[label]
        shown: dict[str, Any] = {"color": look.color, "marker": look.marker}
        best = [cells.numbers(cells.of_best(cell), "error") for cell in own]
        cells.draw_line(axis, at, best, **shown, label=label)
        fixed = [cells.numbers(cells.where(cell, rate=rate), "error") for cell in own]
        cells.draw_line(axis, at, fixed, **shown, ls=":", markerfacecolor="white")
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, *several(rows)], [str(w) for w in (1, *several(rows))])
    axis.set(xlabel="workers", ylabel="test error (%)")
    cells.log_scale(axis)
    axis.legend(title=f"dotted: all at rate {rate:g}")
