"""Learning rates tried for every method alike, so that none is compared at another's best."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

import jax_ssp as ssp
from jax_ssp.checkpoint.summary import summarize
from jax_ssp.files import write_json
from jax_ssp.report.environment import environment
from jax_ssp.report.plots import Curve, draw_curves, legend_below
from jax_ssp.report.styles import PAPER, new_figure
from jax_ssp.report.tables import markdown_table

COLUMNS = ("status", "mean_staleness", "max_staleness")


def main(
    name: str,
    grid: Callable[[], Sequence[ssp.Experiment]],
    panels: Mapping[str, Mapping[str, str]],
    pairs: Sequence[tuple[str, str]] = (),
) -> None:
    """Of a config with a sweep: what comes before it, and what is made of it after.

    Args:
        name: of the config.
        grid: experiments of workloads with a `learning_rate`; of one name and rate they are seeds.
        panels: of the figure, by title: the sweep's runs it shows, from label to name. The first
            panel has all labels.
        pairs: of runs of the sweep that are compared seed by seed, a method and its reference.
    """
    parser = argparse.ArgumentParser(description=f"The learning rates of {name}.")
    default = Path("runs") / f"{name}-grid"
    parser.add_argument("--folder", type=Path, default=default, help="gets grid.json and grid.md")
    parser.add_argument(
        "--after",
        type=Path,
        help="a folder of the sweep, instead: writes figure.png and differences.md there",
    )
    options = parser.parse_args()
    if options.after is None:
        _run_grid(grid(), options.folder)
        return
    runs = json.loads((options.after / "comparison.json").read_text())["runs"]
    _draw(runs, panels, options.after / "figure.png")
    if pairs:
        rows = markdown_table(differences(runs, pairs))
        (options.after / "differences.md").write_text(rows + "\n")
        print(rows)


def differences(
    runs: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Each method minus its reference at the end of training, seed by seed: mean and deviation."""
    last: dict[str, dict[int, Any]] = {}
    for run in runs:
        last.setdefault(run["name"], {})[run["seed"]] = run["summary"]["metrics"]
    rows: list[dict[str, Any]] = []
    for name, reference in pairs:
        row: dict[str, Any] = {"method": name, "minus": reference, "seeds": len(last[name])}
        for metric, sign in (("test_loss", -1), ("test_accuracy", 1)):
            ends = [
                (last[name][seed][metric], last[reference][seed][metric]) for seed in last[name]
            ]
            if any(None in pair for pair in ends):
                row[metric] = "a seed diverged"
                continue
            by_seed = [one - other for one, other in ends]
            row[metric] = f"{statistics.fmean(by_seed):+.4f} ± {statistics.stdev(by_seed):.4f}"
            row[f"better {metric}"] = sum(sign * each > 0 for each in by_seed)
        rows.append(row)
    return rows


def table(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a method: the median test loss over the seeds at each rate, and the best rate.

    Where any seed diverged there is None, and the rate is not the best.
    """
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(run["name"] for run in runs):
        losses: dict[float, list[float]] = {}
        for run in runs:
            if run["name"] == name:
                losses.setdefault(run["learning_rate"], []).append(run["test_loss"])
        medians = {
            rate: statistics.median(values) if all(map(math.isfinite, values)) else None
            for rate, values in losses.items()
        }
        finite = {rate: loss for rate, loss in medians.items() if loss is not None}
        shown = {f"{rate:g}": loss for rate, loss in medians.items()}
        rows.append(
            {"name": name, **shown, "best": min(finite, key=finite.__getitem__, default=None)}
        )
    return rows


def _run_grid(experiments: Sequence[ssp.Experiment], folder: Path) -> None:
    runs: list[dict[str, Any]] = []
    for number, each in enumerate(experiments, start=1):
        runs.append(_run(each))
        print(f"[{number}/{len(experiments)}]", *runs[-1].values(), flush=True)
    rows = table(runs)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "grid.json", {"meta": environment(), "rows": rows, "runs": runs}, indent=1)
    (folder / "grid.md").write_text(markdown_table(rows) + "\n")
    print(markdown_table(rows))


def _run(experiment: ssp.Experiment) -> dict[str, Any]:
    summary = summarize(experiment.run())
    workload: Any = experiment.workload
    return {
        "name": experiment.name,
        "learning_rate": workload.learning_rate,
        "seed": experiment.seed,
        **{metric: summary["metrics"][metric] for metric in ("test_loss", "test_accuracy")},
        **{column: summary[column] for column in COLUMNS},
    }


def _draw(
    runs: Sequence[Mapping[str, Any]], panels: Mapping[str, Mapping[str, str]], file: Path
) -> None:
    """Test accuracy against updates, a panel each; the guess before the first update is left out.

    The legend is of the first panel's labels.
    """
    with mpl.rc_context(PAPER):
        figure = new_figure(2.9)
        axes = figure.subplots(1, len(panels), sharey=True)
        drawn: list[Curve] = []
        for axis, (title, labels) in zip(axes, panels.items(), strict=True):
            curves = [
                Curve(label, run["seed"], *_columns(run))
                for label, name in labels.items()
                for run in runs
                if run["name"] == name
            ]
            draw_curves(axis, curves, "updates", "test_accuracy")
            axis.set_title(title, loc="left")
            drawn = drawn or curves
        legend_below(figure, drawn)
        figure.savefig(file)


def _columns(run: Mapping[str, Any]) -> list[np.ndarray]:
    rows = run["evaluations"][1:]
    columns = [[row[name] for row in rows] for name in ("updates", "time")]
    columns.append([row["metrics"]["test_accuracy"] for row in rows])
    return [np.array(column, dtype=float) for column in columns]
