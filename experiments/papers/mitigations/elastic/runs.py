"""Elastic averaging (EASGD) against DOWNPOUR, as exchanges become rare."""

from __future__ import annotations

from typing import Any

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads.digits import DigitsMLP
from jax_ssp.mitigations import elastic_average
from jax_ssp.report.papers import Row, Size

WORKERS = 8
ALPHA = 0.9 / WORKERS
METHODS: dict[str, dict[str, Any]] = {
    "EASGD": {
        "delta_tx": ssp.configured(elastic_average, alpha=ALPHA),
        "adopt": ssp.Mix(1 - ALPHA),
        "weight": "sum",
    },
    "DOWNPOUR": {"weight": "sum"},
    "DOWNPOUR, mean": {"weight": "mean"},
}
PERIODS: dict[Size, tuple[int, ...]] = {
    "smoke": (1, 4),
    "laptop": (1, 4, 16),
    "paper": (1, 4, 16, 64),
}
STEPS = {"smoke": 16, "laptop": 256, "paper": 2560}  # of each worker
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.1,),
    "laptop": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "paper": (0.0003, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
}


def measure(size: Size, seeds: int) -> list[Row]:
    def run(cell: Cell, rate: float, seed: int) -> Row:
        experiment = ssp.Experiment(
            workload=DigitsMLP(learning_rate=rate),
            policy=ssp.ASP(),
            runtime=ssp.Virtual(WORKERS, ssp.delays.LogNormal(1.0, 0.3), seed),
            local_steps=cell["period"],
            num_clocks=STEPS[size] // cell["period"],
            seed=seed,
            **METHODS[cell["label"]],
        )
        return outcome.end(experiment)

    cells = crossed(study=["elastic"], period=PERIODS[size], label=METHODS)
    study = Study(cells, RATES[size], range(seeds), run, tuning=(0,), loss="loss")
    return [row for cell in cells for row in study.every(study.tune(cell))]
