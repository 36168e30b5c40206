"""Gap-Aware against staleness-aware and plain ASGD, as the number of workers grows."""

from __future__ import annotations

from typing import Any

import optax

import jax_ssp as ssp
from experiments.papers.mitigations import cells
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads.digits import DigitsMLP
from jax_ssp.mitigations import scale_by_gap, scale_by_staleness
from jax_ssp.report.papers import Row, Rows, Size

METHODS: dict[str, Any] = {
    "ASGD": ssp.configured(optax.identity),
    "staleness-aware": ssp.configured(scale_by_staleness, exponent=1.0),
    "Gap-Aware": ssp.configured(scale_by_gap, weight="sum"),
}
WORKERS: dict[Size, tuple[int, ...]] = {
    "smoke": (4,),
    "laptop": (4, 8, 16),
    "paper": (4, 8, 16, 32),
}
UPDATES = {"smoke": 100, "laptop": 1200, "paper": 12_000}
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.1,),
    "laptop": (0.01, 0.03, 0.1, 0.3, 1.0),
    "paper": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
}


def measure(size: Size, seeds: int) -> list[Row]:
    def run(cell: Cell, rate: float, seed: int) -> Row:
        experiment = ssp.Experiment(
            workload=DigitsMLP(learning_rate=rate),
            policy=ssp.ASP(),
            runtime=ssp.Virtual(cell["workers"], ssp.delays.LogNormal(1.0, 0.3), seed),
            delta_tx=METHODS[cell["label"]],
            weight="sum",
            max_updates=UPDATES[size],
            seed=seed,
        )
        return outcome.end(experiment)

    one = crossed(study=["gap"], workers=[1], label=["ASGD"])
    several = crossed(study=["gap"], workers=WORKERS[size], label=METHODS)
    study = Study(one + several, RATES[size], range(seeds), run, tuning=(0,), loss="loss")
    rows: list[Row] = []
    for cell in study.cells:
        rows += study.every(study.tune(cell), also=(alone(rows),) if rows else ())
    return rows


def alone(rows: Rows) -> float:
    """The best rate of a single worker."""
    return cells.best_rate(cells.where(rows, study="gap", workers=1))
