"""Table and figure of `elastic`."""

from __future__ import annotations

from matplotlib.axes import Axes

from experiments.papers import common
from experiments.papers.mitigations import cells
from experiments.papers.mitigations.elastic.claims import cell, periods
from experiments.papers.mitigations.elastic.runs import METHODS
from jax_ssp.report.papers import Row, Rows


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for label in METHODS:
        for period in periods(rows):
            own = cell(rows, label, period)
            error = common.spread(cells.numbers(cells.of_best(own), "error"))
            found.append(
                {
                    "study": f"{label}, last test loss",
                    "setting": f"tau = {period}",
                    "median (range)": common.spread(cells.numbers(cells.of_best(own), "loss")),
                    "best rate": cells.marked_rate(own),
                    "mean staleness": cells.staleness(own),
                    "other": f"error {error} %",
                }
            )
    return found


def draw(axis: Axes, rows: Rows) -> None:
    at = periods(rows)
    for label in METHODS:
        own = [cells.numbers(cells.of_best(cell(rows, label, each)), "loss") for each in at]
        cells.draw_line(axis, at, own, **cells.LOOKS[label]._asdict(), label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks(at, [str(period) for period in at])
    axis.set(xlabel="period tau (local steps)", ylabel="last test loss")
    cells.log_scale(axis)
    axis.legend()
