"""Gap-Aware against staleness-aware and plain ASGD, as the number of workers grows."""

from __future__ import annotations

from functools import partial
from typing import Any

import optax

import jax_ssp as ssp
from experiments.papers.mitigations import cells
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
    def made(rate: float, seed: int, workers: int, label: str) -> ssp.Experiment:
        return ssp.Experiment(
            workload=DigitsMLP(learning_rate=rate),
            policy=ssp.ASP(),
            runtime=ssp.Virtual(workers, ssp.delays.LogNormal(1.0, 0.3), seed),
            delta_tx=METHODS[label],
            weight="sum",
            max_updates=UPDATES[size],
            seed=seed,
        )

    rows: list[Row] = []
    for workers in (1, *WORKERS[size]):
        for label in METHODS if workers > 1 else ("ASGD",):
            about = {"study": "gap", "label": label, "workers": workers}
            make = partial(made, workers=workers, label=label)
            also = (alone(rows),) if rows else ()
            rows += cells.ran(about, make, RATES[size], seeds, also)
    return rows


def alone(rows: Rows) -> float:
    """The best rate of a single worker."""
    return cells.best_rate(cells.where(rows, study="gap", workers=1))
