"""The comparison of a sweep's runs: one figure with both axes, one table, their JSON."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_ssp.files import write_json
from jax_ssp.report.environment import environment
from jax_ssp.report.plots import Curve
from jax_ssp.report.sweep_figure import sweep_figure
from jax_ssp.report.tables import markdown_table
from jax_ssp.runtimes.evaluation import Target
from jax_ssp.runtimes.metric import mode_of

_SHOWN = ("seconds", "updates", "computing", "mean_staleness", "max_staleness", "max_lag")
_MORE_IS_BETTER = re.compile(r"acc|auc|f1|score|bleu|recall|precision|reward|return|r2", re.I)


def compare(
    runs: Sequence[Mapping[str, Any]], folder: Path, title: str | None = None
) -> list[dict[str, Any]]:
    """Draw and tabulate runs; runs of one name are seeds of one curve.

    Args:
        runs: each `{"name", "seed", "summary", "evaluations"}`, and "target" if it has one; of a
            run that failed `{"name", "seed", "status", "log"}`.
        folder: gets `comparison.json` (all that the others are made from), `comparison.png` if
            there is a metric to draw (that of the target, or a loss, if there is one), and
            `comparison.md`.
        title: of the figure.

    Returns:
        The rows of the table, the best first: for each name the means over its seeds, and of each
        metric of the last evaluation the median and the range; where a seed has no number of it
        (it diverged), there is no median. The best is who reached the target first, or else whose
        metric is best.
    """
    over = [run for run in runs if "summary" in run]
    metric, most = _judged_by(over)
    groups = _groups(runs)
    rows = [_row(name, group) for name, group in groups.items()]
    rows.sort(key=lambda row: _rank(row, metric, most))
    content = {"meta": environment(), "rows": rows, "runs": list(runs)}
    write_json(folder / "comparison.json", content, indent=1)
    (folder / "comparison.md").write_text(markdown_table(rows) + "\n")
    curves = [] if metric is None else [_curve(run, metric) for run in over]
    if metric is not None and any(len(curve.values) for curve in curves):
        unit = f"{over[0]['summary']['time']} seconds"
        best = [row["name"] for row in rows]
        sweep_figure(curves, folder / "comparison.png", metric, unit, title, best)
    return rows


def _judged_by(runs: Sequence[Mapping[str, Any]]) -> tuple[str | None, bool]:
    """The metric by which runs are compared, and whether more of it is better."""
    metrics = [name for run in runs for row in run["evaluations"] for name in row["metrics"]]
    for run in runs:
        if run.get("target") is not None:
            target = Target.parse(run["target"])
            if target.metric in metrics:
                return target.metric, target.at_least
    if not metrics:
        return None, False
    metric = next((name for name in metrics if "loss" in name), metrics[0])
    return metric, mode_of(metric, None) == "max" and bool(_MORE_IS_BETTER.search(metric))


def _rank(row: Mapping[str, Any], metric: str | None, most: bool) -> tuple[float, ...]:
    """Less is better: the target reached, and when; then the metric; then what has neither."""
    reached = row["status"] == "target"
    value = row.get(f"last {metric}", row.get(metric)) if metric is not None else None
    if not isinstance(value, float | int) or not math.isfinite(value):
        return (1, float("seconds" not in row), 0.0)
    return (0, float(not reached), row["seconds"] if reached else -value if most else value)


def _groups(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["name"], []).append(run)
    return groups


def _row(name: str, every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "runs": len(every)}
    runs = [run for run in every if "summary" in run]
    for column in _SHOWN if runs else ():
        row[column] = statistics.fmean(run["summary"][column] for run in runs)
    last = [run["evaluations"][-1]["metrics"] for run in runs if run["evaluations"]]
    for metric in dict.fromkeys(metric for each in last for metric in each):
        values = [math.nan if each.get(metric) is None else each[metric] for each in last]
        column = f"last {metric}" if metric in (*row, "status", "log") else metric
        known = [value for value in values if not math.isnan(value)]
        whole = len(known) == len(values)  # else there is no middle: the order would decide on one
        row[column] = statistics.median(values) if whole else math.nan
        row[f"{column} range"] = _range(known, whole)
    row["status"] = ", ".join(sorted({_status(run) for run in every}))
    logs = [run["log"] for run in every if run.get("log")]
    return {**row, "log": logs[0]} if logs else row


def _range(known: Sequence[float], whole: bool) -> str:
    """From the least number to the greatest, and whether that is all."""
    told = [f"{min(known):.3g} to {max(known):.3g}"] if known else []
    return " or ".join(told if whole else [*told, "nan"])


def _status(run: Mapping[str, Any]) -> str:
    return run["summary"]["status"] if "summary" in run else run["status"]


def _curve(run: Mapping[str, Any], metric: str) -> Curve:
    rows = [row for row in run["evaluations"] if metric in row["metrics"]]
    updates, seconds = (
        np.array([row[name] for row in rows], float) for name in ("updates", "time")
    )
    values = np.array([row["metrics"][metric] for row in rows], float)
    return Curve(run["name"], run["seed"], updates, seconds, values)
