"""Backup workers: iterations and seconds to a target, as fewer are waited for."""

from __future__ import annotations

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Cell, Study
from experiments.workloads.digits import DigitsMLP
from jax_ssp.report.papers import Row, Size

DELAY = ssp.delays.Pareto(minimum=1.0, shape=1.5)  # heavy tail: its variance is infinite
TARGET = 0.4  # of the test loss
MERGED, TOTAL = 8, 12
# Workers and backups: 8 deltas an iteration and ever more backups; or 12 workers in all.
SETTINGS: dict[str, dict[Size, list[tuple[int, int]]]] = {
    f"{MERGED} + b workers": {
        "smoke": [(MERGED, 0), (MERGED + 2, 2)],
        "laptop": [(MERGED + b, b) for b in range(5)],
        "paper": [(MERGED + b, b) for b in range(9)],
    },
    f"{TOTAL} workers in all": {
        "smoke": [(TOTAL, 0), (TOTAL, 4)],
        "laptop": [(TOTAL, b) for b in (0, 1, 2, 4, 6, 8, 10)],
        "paper": [(TOTAL, b) for b in range(TOTAL)],
    },
}
CLOCKS = {"smoke": 100, "laptop": 2000, "paper": 20_000}  # iterations of the clockwork
ITERATIONS = {"smoke": 120, "laptop": 300, "paper": 3000}  # of the training, at most
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.4,),
    "laptop": (0.1, 0.2, 0.4, 0.8),
    "paper": (0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
}


def pace(workers: int, b: int, iterations: int, seed: int) -> float:
    """Seconds an iteration, from the clockwork alone."""
    updates = iterations * (workers - b)
    run = outcome.clockwork(ssp.BackupWorkers(b=b), workers, DELAY, seed, max_updates=updates)
    return run.seconds / run.version


def measure(size: Size, seeds: int) -> list[Row]:
    def run(cell: Cell, rate: float, seed: int) -> Row:
        workers, b = cell["workers"], cell["b"]
        experiment = ssp.Experiment(
            workload=DigitsMLP(learning_rate=rate, batch_size=4),
            policy=ssp.BackupWorkers(b=b),
            runtime=ssp.Virtual(workers, DELAY, seed),
            weight="merged",
            max_updates=ITERATIONS[size] * (workers - b),
            eval_every=2,
            target=f"test_loss <= {TARGET}",
            seed=seed,
        )
        return {"iterations": outcome.needed(experiment, "version")["version"]}

    cells = [
        {"study": "backup", "setting": setting, "workers": workers, "b": b}
        for setting, sizes in SETTINGS.items()
        for workers, b in sizes[size]
    ]
    study = Study(cells, RATES[size], range(seeds), run, tuning=(0,), loss="iterations")
    return [
        {
            **study.gathered(cell, "iterations"),
            "pace": [pace(cell["workers"], cell["b"], CLOCKS[size], s) for s in range(seeds)],
        }
        for cell in study.cells
    ]
