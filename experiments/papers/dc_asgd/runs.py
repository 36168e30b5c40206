"""What is run and looked up for delay-compensated SGD: all methods at all rates on all seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax_ssp as ssp
from experiments import delay_compensation
from experiments.papers import common
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from jax_ssp.report.papers import Row, Rows, Size

WORKERS = (8, 4)
SEQUENTIAL, SSGD, ASGD = "sequential SGD", "BSP (SSGD)", "ASP (ASGD)"
SMALL, CONSTANT, ADAPTIVE = "constant 0.04", "constant 1", "adaptive 2"
LABELS = (SEQUENTIAL, SSGD, ASGD, SMALL, CONSTANT, ADAPTIVE)
LAMBDAS: dict[str, dict[str, Any]] = {
    SMALL: {"lam": 0.04},
    CONSTANT: {"lam": 1.0},
    ADAPTIVE: {"lam": 2.0, "adaptive": True},
}
UPDATES = dict.fromkeys(("laptop", "paper"), delay_compensation.UPDATES) | {"smoke": 120}
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.1,),
    "laptop": (*delay_compensation.RATES, 0.6, 1.0),
    "paper": (*delay_compensation.RATES, 0.6, 1.0),
}


def experiment(label: str, workers: int, rate: float, seed: int) -> ssp.Experiment:
    made = delay_compensation.experiment(
        label, workers=workers, rate=rate, seed=seed, **LAMBDAS.get(label, {})
    )
    # A merge on arrival has one delta, so that it is as large as one of the mean of all.
    return replace(made, policy=ssp.BSP(), weight="merged") if label == SSGD else made


def measure(size: Size, seeds: int) -> list[Row]:
    def run(cell: Cell, rate: float, seed: int) -> Row:
        made = experiment(cell["label"], cell["workers"], rate, seed)
        every = 120 // cell["workers"]
        return outcome.curve(
            replace(made, max_updates=UPDATES[size], eval_every=every), "test_loss"
        )

    rows: list[Row] = []
    for workers in (1, *WORKERS):
        labels = LABELS[1:] if workers > 1 else (SEQUENTIAL,)
        cells = crossed(workers=[workers], label=labels)
        rows += Study(cells, RATES[size], range(seeds), run).grid()
    return rows


def of(rows: Rows, workers: int, rate: float | None = None) -> list[Mapping[str, Any]]:
    """Runs with so many workers and those of sequential SGD, at one rate or all."""
    return [
        row
        for row in common.runs(rows)
        if row["workers"] in (workers, 1) and rate in (row["rate"], None)
    ]


def rates(rows: Rows) -> list[float]:
    return sorted({row["rate"] for row in common.runs(rows)})


def best(rows: Rows, workers: int, label: str) -> float:
    """The rate with the smallest last loss, the median over the seeds."""
    return min(rates(rows), key=lambda rate: common.last(of(rows, workers, rate), label))


def at_best(rows: Rows, workers: int) -> list[Mapping[str, Any]]:
    """The runs of every method at its own best rate."""
    own = {label: of(rows, workers, best(rows, workers, label)) for label in LABELS}
    return [row for label in LABELS for row in common.runs(own[label], label)]


def lasts(rows: Rows, label: str) -> list[float]:
    """Last losses by seed, infinite where it diverged."""
    own = sorted(common.runs(rows, label), key=lambda row: int(row["seed"]))
    return [common.finite(row["last"]) for row in own]
