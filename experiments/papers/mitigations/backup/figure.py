"""Table and figure of `backup`."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from experiments.papers import common
from experiments.papers.mitigations import cells
from experiments.papers.mitigations.backup.claims import (
    FIXED,
    GROWING,
    every_iterations,
    every_seconds,
)
from experiments.papers.mitigations.backup.runs import TARGET
from jax_ssp.report.papers import Row, Rows
from jax_ssp.report.styles import style


def table(rows: Rows) -> list[Row]:
    return [
        {
            "study": f"Backup workers, {row['setting']}, seconds",
            "setting": f"b = {row['b']}",
            "median (range)": common.spread(every_seconds(row)),
            "best rate": common.marked(row["rate"], [each["rate"] for each in row["swept"]]),
            "mean staleness": "0",  # by the policy: who comes too late is dropped
            "other": f"{common.spread(every_iterations(row))} iterations of "
            f"{common.spread(row['pace'])} s",
        }
        for row in cells.where(rows, study="backup")
    ]


def draw(left: Axes, right: Axes, rows: Rows) -> None:
    """Iterations to the target, and seconds."""
    look: dict[str, Any] = style("BackupWorkers")._asdict()
    for axis, of in ((left, every_iterations), (right, every_seconds)):
        for setting, other in ((GROWING, {}), (FIXED, {"linestyle": ":", "marker": "o"})):
            own = cells.where(rows, study="backup", setting=setting)
            backups = [row["b"] for row in own]
            cells.draw_line(axis, backups, list(map(of, own)), **{**look, **other}, label=setting)
        axis.set(xlabel="backup workers b")
        axis.set_ylim(bottom=0)
        axis.legend()
    left.set_ylabel(f"iterations to test loss {TARGET:g}")
    right.set_ylabel(f"virtual seconds to test loss {TARGET:g}")
