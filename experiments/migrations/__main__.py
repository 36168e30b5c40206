"""Measures both migrations: the loop beside BSP and SSP(3), learning rates swept for each.

Command:  python -m experiments.migrations
Time:     20 minutes on 2 cores; interrupted, it goes on at the next call
"""

from __future__ import annotations

import argparse
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import jax_ssp as ssp
from experiments.migrations import byte_lm, fashion_resnet
from experiments.migrations.common import WORKERS
from experiments.study import outcome
from experiments.study.study import Study, crossed
from jax_ssp.files import write_json
from jax_ssp.report.environment import environment
from jax_ssp.report.papers import Row
from jax_ssp.report.plots import Curve, comparison
from jax_ssp.report.tables import markdown_table

PLAIN = "plain loop"
SEEDS, TUNING = (0, 1, 2), (10,)  # reported; the one on which rates are picked
LONGER = 1.15  # times the rounds of BSP: what SSP(3) makes in just less than two thirds of its time
METHODS: dict[str, tuple[ssp.Policy, str, float]] = {
    "BSP, server": (ssp.BSP(), "server", 1.0),
    "SSP(3), server": (ssp.SSP(bound=3), "server", LONGER),
    "BSP, workers": (ssp.BSP(), "workers", 1.0),
    "SSP(3), workers": (ssp.SSP(bound=3), "workers", LONGER),
}


@dataclass(frozen=True)
class Migration:
    """A recipe, and how it is measured."""

    module: ModuleType  # with `plain` and `get_config`
    rates: tuple[float, ...]
    steps: int  # batches of a worker that one update of the loop is the mean of
    about: str


MIGRATIONS = {
    "byte_lm": Migration(
        byte_lm,
        (0.0025, 0.005, 0.01, 0.02),
        byte_lm.ACCUMULATED,
        "A byte language model: AdamW with clipping, masked decay, a warm-up cosine, and each "
        "update the mean over two batches. On the workers there is no such mean: each steps after "
        "every batch, twice as often as the loop.",
    ),
    "fashion_resnet": Migration(
        fashion_resnet,
        (0.05, 0.1, 0.2, 0.4),
        1,
        "A ResNet with BatchNorm and dropout on Fashion-MNIST: SGD with momentum, masked decay, a "
        "warm-up cosine. What cannot be the loop's to the bit: a worker normalizes 16 images and "
        "not 64, and draws dropout masks of its own. Without dropout, and with BatchNorm over 16 "
        "images in the loop too, BSP is the loop to rounding: a test shows that.",
    ),
}


def made(name: str, method: str, rate: float, seed: int, rounds: int | None = None) -> Any:
    """The run of a method; `rounds` of the loop, by default the config's."""
    config = MIGRATIONS[name].module.get_config()
    policy, where, longer = METHODS[method]
    loop = round(longer * (config.workload.rounds if rounds is None else rounds))
    steps = MIGRATIONS[name].steps * loop
    workload = replace(
        config.workload, learning_rate=rate, rounds=loop if where == "server" else steps
    )
    return replace(
        config,
        name=method,
        workload=workload,
        policy=policy,
        optimizer_on=where,
        max_samples=steps * WORKERS * workload.batch_size,
        eval_every=15,
        seed=seed,
    )


def measured(name: str, method: str, rate: float, seed: int) -> Row:
    """What the loop, or a method, comes to."""
    if method == PLAIN:
        module = MIGRATIONS[name].module
        workload = replace(module.get_config().workload, learning_rate=rate)
        params = module.plain(workload, seed)
        metrics = workload.build(WORKERS, seed).evaluate(params)
        return {key: float(value) for key, value in metrics.items()}
    experiment = made(name, method, rate, seed)
    result = outcome.run(experiment)
    rows = result.evaluations
    return {
        **result.metrics,
        "status": result.status,
        "seconds": result.seconds,
        "curve": [[row["updates"], row["time"], row["metrics"]["test_loss"]] for row in rows],
    }


def table(rows: Sequence[Row]) -> list[Row]:
    """A row a method: its rate, median and range of its ends, its seconds."""
    found: list[Row] = []
    for method in (PLAIN, *METHODS):
        own = of(rows, method)
        losses = [row["test_loss"] for row in own]
        row: Row = {
            "optimizer": method,
            "rate": own[0]["marked"],
            "test loss": f"{statistics.median(losses):.4f}",
            "range": f"{min(losses):.4f} to {max(losses):.4f}",
        }
        if "test_accuracy" in own[0]:
            accuracies = [each["test_accuracy"] for each in own]
            row["test accuracy"] = f"{statistics.median(accuracies):.3f}"
        seconds = [each["seconds"] for each in own if "seconds" in each]
        row["virtual seconds"] = f"{statistics.median(seconds):.0f}" if seconds else ""
        found.append(row)
    return found


def of(rows: Sequence[Row], method: str) -> list[Row]:
    """The reported runs of a method, by seed."""
    return [row for row in rows if row["method"] == method and row["seed"] in SEEDS]


def findings(rows: Sequence[Row]) -> list[Row]:
    """What was to be shown, what came of it, and whether it holds."""

    def ratios(column: str, method: str, other: str) -> list[float]:
        pairs = zip(of(rows, method), of(rows, other), strict=True)
        return [one[column] / two[column] for one, two in pairs]

    loop = max(abs(each - 1) for each in ratios("test_loss", "BSP, server", PLAIN))
    found = [
        {
            "what": "BSP with the optimizer on the server comes to the test loss of the loop "
            "(to 0.1 % on every seed)",
            "measured": f"differs by {100 * loop:.2g} % at most",
            "holds": "yes" if loop <= 1e-3 else "**no**",
        }
    ]
    for where in ("server", "workers"):
        one, two = f"SSP(3), {where}", f"BSP, {where}"
        each = ratios("test_loss", one, two)
        median, time = statistics.median(each), max(ratios("seconds", one, two))
        found.append(
            {
                "what": f"SSP(3) is within 1 % of BSP's test loss in two thirds of its virtual "
                f"seconds, optimizers on the {where}",
                "measured": f"loss {100 * (median - 1):+.1f} % in the median of seeds "
                f"({100 * (min(each) - 1):+.1f} to {100 * (max(each) - 1):+.1f} %), "
                f"{time:.2f} of the seconds",
                "holds": share(each) if time <= 2 / 3 else "**no**",
            }
        )
    return found


def share(ratios: Sequence[float]) -> str:
    """On how many seeds a loss is at most 1 % more than what it is compared with."""
    good = sum(ratio <= 1.01 for ratio in ratios)
    if good in (0, len(ratios)):
        return "yes" if good else "**no**"
    return f"on {good} of {len(ratios)} seeds"


def draw(name: str, rows: Sequence[Row], meta: Mapping[str, Any], file: Path) -> None:
    """The test loss of all seeds against updates and seconds, without the first guess."""
    curves = [
        Curve(row["method"], row["seed"], *np.array(row["curve"][1:], dtype=float).T)
        for method in METHODS
        for row in of(rows, method)
    ]
    said = f"{name}, {len(SEEDS)} seeds; commit {meta['commit']}, jax {meta['jax']}"
    comparison(curves, file, "test_loss", title=said)


ABOUT = (
    "Each is an ordinary loop of optax and flax, and a config beside it in the same file "
    "([configs](../../migrations)). {workers} workers in virtual time; each in its turn takes 4 "
    "times as long for one clock of ten, so that under BSP somebody is slow in four clocks of ten. "
    "This delay model was chosen for it: with other slowdowns SSP gains less, or nothing "
    "([null case](../papers/null_case.md)). SSP(3) trains for as long as fits in two thirds of "
    "BSP's virtual seconds: {longer:g} times as many rounds. Learning rates were swept for every "
    "row alike, on a seed that is not reported; reported are {seeds} seeds. Evaluated on examples "
    "that are not trained on. Differences are of runs of one seed; with so few, and so short, "
    "those below what the seeds spread by say little."
)


def page(parts: Mapping[str, Sequence[Row]], meta: Mapping[str, Any]) -> str:
    """The README of the results."""
    about = ABOUT.format(workers=WORKERS, longer=LONGER, seeds=len(SEEDS))
    lines = ["# Two loops that were moved here", "", textwrap.fill(about, 110), ""]
    for name, rows in parts.items():
        lines += [f"## {name}", "", textwrap.fill(MIGRATIONS[name].about, 110), ""]
        lines += [markdown_table(table(rows)), "", markdown_table(findings(rows)), ""]
        lines += [f"![test loss against updates and virtual seconds]({name}.png)", ""]
    versions = ", ".join(f"{key} {meta[key]}" for key in ("commit", "python", "jax", "date"))
    text = "[table.json](table.json), by `python -m experiments.migrations`"
    return "\n".join([*lines, f"Data: {text} ({versions}).", ""])


def study_of(name: str, folder: Path, commit: str | None) -> Study:
    """All methods of a recipe; what was measured at this commit is kept in the folder."""
    return Study(
        cells=crossed(method=(PLAIN, *METHODS)),
        rates=MIGRATIONS[name].rates,
        seeds=SEEDS,
        run=lambda cell, rate, seed: measured(name, cell["method"], rate, seed),
        tuning=TUNING,
        loss="test_loss",
        kept=folder / f"{name}.jsonl",
        about={"commit": commit},
        each=lambda row: print(name, *list(row.values())[:4], flush=True),
    )


def main() -> None:
    """Measure, and write README.md, table.json and a figure of each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/migrations"))
    about = "measure this one alone, and write nothing yet"
    parser.add_argument("--only", choices=MIGRATIONS, help=about)
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    meta, parts = environment(), dict[str, list[Row]]()
    for name in [options.only] if options.only else MIGRATIONS:
        study = study_of(name, folder, meta["commit"])
        parts[name] = []
        for tuned in map(study.tune, study.cells):
            reported = [{**row, "marked": tuned.marked} for row in study.report(tuned)]
            parts[name] += [*tuned.tried, *reported]
    if options.only:
        return
    for name, rows in parts.items():
        draw(name, rows, meta, folder / f"{name}.png")
    write_json(folder / "table.json", {"meta": meta, "runs": parts}, indent=1)
    (folder / "README.md").write_text(page(parts, meta))
    for name in MIGRATIONS:
        (folder / f"{name}.jsonl").unlink()


if __name__ == "__main__":
    main()
