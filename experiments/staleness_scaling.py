"""Asynchronous SGD with 30 workers fails at the synchronous learning rate; divided by tau it holds.

Paper:    Zhang, Gupta, Lian, Liu 2016, "Staleness-aware async-SGD for distributed deep learning",
          arXiv:1511.05950, n-softsync with and without the learning rate divided by the staleness
          (on our own workload)
Command:  jax-ssp run experiments/staleness_scaling.py
          python -m experiments.staleness_scaling  (before it: the learning rates, for every method)
          python -m experiments.staleness_scaling --after RUN  (after it: the figure)
Time:     2 minutes on 2 cores, and 5 for the learning rates
Expected: at the best rate of synchronous training the plain 15- and 30-softsync do not learn; with
          delta_tx=scale_by_staleness() they come as far as synchronous training does
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax_ssp as ssp
from experiments.study.grid import main, rates_of
from experiments.study.study import Study
from experiments.workloads.digits import DigitsMLP
from jax_ssp.mitigations import scale_by_staleness

WORKERS = 30
UPDATES = 6000
SCALED = {"delta_tx": ssp.configured(scale_by_staleness)}  # 1 / max(1, tau)
METHODS: dict[str, dict[str, Any]] = {
    "BSP": {"policy": ssp.BSP()},
    "Softsync(1)": {"policy": ssp.Softsync(n=1)},
    "Softsync(1), 1/tau": {"policy": ssp.Softsync(n=1), **SCALED},
    "Softsync(15)": {"policy": ssp.Softsync(n=15)},
    "Softsync(15), 1/tau": {"policy": ssp.Softsync(n=15), **SCALED},
    "Softsync(30)": {"policy": ssp.Softsync(n=30)},
    "Softsync(30), 1/tau": {"policy": ssp.Softsync(n=30), **SCALED},
}
RATES = (0.01, 0.03, 0.1, 0.3, 0.5, 1.0)
# By test loss, the median of seeds 0 to 2: results/staleness_scaling/grid.md. The runs below are of
# other seeds.
BEST = {
    "BSP": 0.5,
    "Softsync(1)": 0.3,
    "Softsync(1), 1/tau": 0.5,
    "Softsync(15)": 0.03,
    "Softsync(15), 1/tau": 0.5,
    "Softsync(30)": 0.03,
    "Softsync(30), 1/tau": 0.5,
}
COMMON = BEST["BSP"]
SEEDS = (3, 4, 5)


def experiment(name: str, rate: float, seed: int) -> ssp.Experiment:
    # As the paper has it, a merge applies the mean of its deltas. Of the 30 in a round each counts
    # 1/30 in synchronous training, 1 in 30-softsync, and divided by a staleness of 30 again 1/30.
    return ssp.Experiment(
        name=name,
        workload=DigitsMLP(learning_rate=rate),
        weight="merged",
        runtime=ssp.Virtual(
            num_workers=WORKERS,
            delay=ssp.delays.ShiftedExponential(shift=0.8, mean=0.2),
            seed=seed,
        ),
        max_updates=UPDATES,
        eval_every=5,
        seed=seed,
        **METHODS[name],
    )


def get_sweep() -> list[ssp.Experiment]:
    """All at the best rate of synchronous training, then those with another one at their own."""
    runs = {name: (name, COMMON) for name in METHODS}
    runs |= {f"{name}, rate {BEST[name]}": (name, BEST[name]) for name in METHODS}
    return [
        replace(experiment(*run, seed), name=label)
        for label, run in runs.items()
        for seed in SEEDS
        if label in METHODS or run[1] != COMMON
    ]


def study() -> Study:
    return rates_of(METHODS, RATES, SEEDS, experiment)


PANELS = {
    "(a) as it is": {name: name for name in METHODS if "tau" not in name},
    "(b) divided by the staleness": {
        name.removesuffix(", 1/tau"): name for name in METHODS if "tau" in name or name == "BSP"
    },
}

if __name__ == "__main__":
    main("staleness_scaling", study(), PANELS)
