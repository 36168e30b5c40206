"""The command of a config that sweeps: rates before it, figure and differences after it."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Cell, Study, Tuned, crossed
from jax_ssp.checkpoint.summary import summarize
from jax_ssp.files import write_json
from jax_ssp.report.environment import environment
from jax_ssp.report.papers import Row
from jax_ssp.report.plots import Curve, draw_curves, legend_below
from jax_ssp.report.styles import PAPER, new_figure
from jax_ssp.report.tables import markdown_table

Pair: TypeAlias = tuple[str, str]
TUNING = (0, 1, 2)  # seeds on which rates are picked; a sweep reports others
COLUMNS = ("status", "mean_staleness", "max_staleness")


def main(
    name: str, study: Study, panels: Mapping[str, Mapping[str, str]], pairs: Sequence[Pair] = ()
) -> None:
    """Of a config with a sweep: what comes before it, and what is made of it after.

    Args:
        name: of the config.
        study: whose rates are tried; see `rates_of`.
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
        tune(study, options.folder)
        return
    runs = json.loads((options.after / "comparison.json").read_text())["runs"]
    _draw(name, runs, panels, options.after / "figure.png")
    if pairs:
        rows = markdown_table(differences(runs, pairs))
        (options.after / "differences.md").write_text(rows + "\n")
        print(rows)


def rates_of(
    names: Iterable[str],
    rates: Sequence[float],
    seeds: Sequence[int],
    made: Callable[[str, float, int], ssp.Experiment],
) -> Study:
    """The study of a config: rates by test loss on the seeds of `TUNING`.

    Args:
        names: of the methods.
        rates: learning rates, the same for all.
        seeds: those that the sweep reports.
        made: (name, rate, seed) -> what to run.
    """

    def run(cell: Cell, rate: float, seed: int) -> Row:
        summary = summarize(outcome.run(made(cell["name"], rate, seed)))
        ends = {metric: summary["metrics"][metric] for metric in ("test_loss", "test_accuracy")}
        return {**ends, **{column: summary[column] for column in COLUMNS}}

    return Study(crossed(name=names), rates, seeds, run, tuning=TUNING, loss="test_loss")


def tune(study: Study, folder: Path) -> None:
    """Try all rates, and write grid.json and grid.md; interrupted, it goes on at the next call."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "runs.jsonl"
    meta = environment()
    about = {"commit": meta["commit"]}
    study = replace(
        study, kept=kept, about=about, each=lambda row: print(*row.values(), flush=True)
    )
    tuned = [study.tune(cell) for cell in study.cells]
    rows = table(tuned)
    runs = [row for each in tuned for row in each.tried]
    write_json(folder / "grid.json", {"meta": meta, "rows": rows, "runs": runs}, indent=1)
    (folder / "grid.md").write_text(markdown_table(rows) + "\n")
    kept.unlink()
    print(markdown_table(rows))


def differences(runs: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
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


def table(tuned: Sequence[Tuned]) -> list[Row]:
    """A row a method: the median test loss over the seeds at each rate, and the best rate.

    Where any seed diverged there is None; the best rate says so if it is at the edge.
    """
    rows: list[Row] = []
    for each in tuned:
        losses = {
            f"{rate:g}": loss if math.isfinite(loss) else None for rate, loss in each.scores.items()
        }
        learned = math.isfinite(each.scores[each.best])
        rows.append({**each.cell, **losses, "best": each.marked if learned else None})
    return rows


def _draw(
    name: str,
    runs: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Mapping[str, str]],
    file: Path,
) -> None:
    """Test accuracy against updates, a panel each; the guess before the first update is left out.

    The legend is of the first panel's labels.
    """
    with mpl.rc_context(PAPER):
        figure = new_figure(3.15)
        figure.suptitle(f"{name.replace('_', ' ').capitalize()}: test accuracy")
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
