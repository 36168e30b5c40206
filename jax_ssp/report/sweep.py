"""The comparison of a sweep's runs: one figure with both axes, one table, their JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_ssp.files import write_json
from jax_ssp.report.environment import environment
from jax_ssp.report.plots import Curve, comparison
from jax_ssp.report.tables import markdown_table

_SHOWN = ("seconds", "updates", "computing", "mean_staleness", "max_staleness", "max_lag")


def compare(runs: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Draw and tabulate runs; runs of one name are seeds of one curve.

    Args:
        runs: each `{"name", "seed", "summary", "evaluations"}`.
        folder: gets `comparison.json` (all that the others are made from), `comparison.png` if
            there is a metric to draw (a loss, if there is one), and `comparison.md`.

    Returns:
        The rows of the table: for each name the means over its seeds, and for each metric of the
        last evaluation also the range.
    """
    rows = [_row(name, group) for name, group in _groups(runs).items()]
    content = {"meta": environment(), "rows": rows, "runs": list(runs)}
    write_json(folder / "comparison.json", content, indent=1)
    (folder / "comparison.md").write_text(markdown_table(rows) + "\n")
    metrics = [name for run in runs for row in run["evaluations"] for name in row["metrics"]]
    metric = next((name for name in metrics if "loss" in name), metrics[0] if metrics else None)
    if metric is not None:
        unit = f"{runs[0]['summary']['time']} seconds"
        comparison([_curve(run, metric) for run in runs], folder / "comparison.png", metric, unit)
    return rows


def _groups(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["name"], []).append(run)
    return groups


def _row(name: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "runs": len(runs)}
    for column in _SHOWN:
        row[column] = statistics.fmean(run["summary"][column] for run in runs)
    last = [run["evaluations"][-1]["metrics"] for run in runs if run["evaluations"]]
    for metric in dict.fromkeys(metric for each in last for metric in each):
        values = [math.nan if each.get(metric) is None else each[metric] for each in last]
        column = f"last {metric}" if metric in (*row, "status") else metric
        row[column] = statistics.median(values)
        row[f"{column} range"] = f"{min(values):.3g} to {max(values):.3g}"
    row["status"] = ", ".join(sorted({run["summary"]["status"] for run in runs}))
    return row


def _curve(run: Mapping[str, Any], metric: str) -> Curve:
    rows = [row for row in run["evaluations"] if metric in row["metrics"]]
    updates, seconds = (
        np.array([row[name] for row in rows], float) for name in ("updates", "time")
    )
    values = np.array([row["metrics"][metric] for row in rows], float)
    return Curve(run["name"], run["seed"], updates, seconds, values)
