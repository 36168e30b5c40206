"""Elastic averaging (EASGD) against DOWNPOUR, as exchanges become rare."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax_ssp as ssp
from experiments.papers.mitigations import cells
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
    def made(rate: float, seed: int, period: int, label: str) -> ssp.Experiment:
        return ssp.Experiment(
            workload=DigitsMLP(learning_rate=rate),
            policy=ssp.ASP(),
            runtime=ssp.Virtual(WORKERS, ssp.delays.LogNormal(1.0, 0.3), seed),
            local_steps=period,
            num_clocks=STEPS[size] // period,
            seed=seed,
            **METHODS[label],
        )

    rows: list[Row] = []
    for period in PERIODS[size]:
        for label in METHODS:
            about = {"study": "elastic", "label": label, "period": period}
            make = partial(made, period=period, label=label)
            rows += cells.ran(about, make, RATES[size], seeds)
    return rows
