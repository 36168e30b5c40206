"""What is run for the null case."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads import slowdowns
from experiments.workloads.digits import DigitsMLP
from experiments.workloads.slowdowns import WORKERS
from jax_ssp.report.papers import Row, Size

JITTER = 0.02  # of equal devices: the standard deviation of log seconds
DELAYS: dict[str, Any] = {**slowdowns.DELAYS, "equal": ssp.delays.LogNormal(1.0, JITTER)}
TITLES = {**slowdowns.TITLES, "equal": f"equal devices, {100 * JITTER:g} % jitter"}
# The policy, and the local steps of its clocks.
METHODS: dict[str, tuple[Any, Any]] = {
    "BSP": (ssp.BSP(), 1),
    "SSP(1)": (ssp.SSP(bound=1), 1),
    "SSP(3)": (ssp.SSP(bound=3), 1),
    "ASP": (ssp.ASP(), 1),
    "BSP, 8 steps": (ssp.BSP(), 8),
    "BSP, DyLU(8)": (ssp.BSP(), ssp.DyLU(h=8)),
}
BOUNDS = ("BSP", "SSP(1)", "SSP(3)", "ASP")
STALE = BOUNDS[1:]
TRAINED = {
    "equal": BOUNDS,
    "slow for good": ("BSP", "SSP(3)", "ASP", "BSP, 8 steps", "BSP, DyLU(8)"),
    "exponential": BOUNDS,
}
ROUNDS = {"smoke": 100, "laptop": 1000, "paper": 10_000}  # of W clocks, of the clockwork
SECONDS = {"smoke": 40, "laptop": 160, "paper": 800}  # virtual, of the training
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.2,),
    "laptop": (0.2, 0.4, 0.8, 1.6, 3.2),
    "paper": (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4),
}


def clockwork(delay: str, label: str, size: Size, seeds: int) -> Row:
    """What a step costs under a policy, from the clockwork alone."""
    pace: list[float] = []
    within: list[int] = []
    lag = 0
    for seed in range(seeds):
        steps: list[int] = []  # of every clock

        def counted(worker: int, clock: int, h: int, rng: Any, kept: list[int] = steps) -> float:
            kept.append(h)
            return DELAYS[delay](worker, clock, h, rng)

        policy, local_steps = METHODS[label]
        how: dict[str, Any] = {"local_steps": local_steps, "max_updates": ROUNDS[size] * WORKERS}
        run = outcome.clockwork(policy, WORKERS, counted, seed, **how)
        pace.append(WORKERS * run.seconds / run.updates / statistics.fmean(steps))
        merges = run.schedule["merge_version"]
        times = np.zeros(merges.max() + 1)
        np.maximum.at(times, merges, run.schedule["finish"])
        within.append(int((times[merges] <= SECONDS[size]).sum()))
        lag = max(lag, int(run.schedule["lag"].max()))
    about: Row = {"kind": "clockwork", "delay": delay, "policy": label}
    return {**about, "seconds": pace, "updates_in_training": within, "max_lag": lag}


def measure(size: Size, seeds: int) -> list[Row]:
    rows = [clockwork(delay, label, size, seeds) for delay in DELAYS for label in METHODS]
    within = {(row["delay"], row["policy"]): row["updates_in_training"] for row in rows}

    def run(cell: Cell, rate: float, seed: int) -> Row:
        delay, label = cell["delay"], cell["label"]
        policy, local_steps = METHODS[label]
        experiment = ssp.Experiment(
            workload=DigitsMLP(learning_rate=rate),
            policy=policy,
            runtime=ssp.Virtual(WORKERS, DELAYS[delay], seed),
            local_steps=local_steps,
            max_updates=within[delay, label][seed],
            eval_every=1 if local_steps != 1 else max(1, SECONDS[size] // 80),
            seed=seed,
        )
        return outcome.curve(experiment, "test_loss")

    cells = [cell for delay in TRAINED for cell in crossed(delay=[delay], label=TRAINED[delay])]
    return rows + Study(cells, RATES[size], range(seeds), run, tuning=(0,)).rows()
