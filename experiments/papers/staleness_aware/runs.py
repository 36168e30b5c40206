"""What is run and looked up for n-softsync: its staleness, and all methods at all rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax_ssp as ssp
from experiments import staleness_scaling
from experiments.papers import common
from experiments.staleness_scaling import METHODS, WORKERS
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from jax_ssp.report.papers import Row, Rows, Size

PARTS = (1, 2, 5, 10, 15, 30)  # n, of the clockwork
EQUAL: dict[str, Any] = {
    "constant": ssp.delays.Constant(1.0),
    "5 % jitter": ssp.delays.LogNormal(median=1.0, sigma=0.05),
}
DELAYS: dict[str, Any] = {  # the last is that of the training
    **EQUAL,
    "0.8 s + exponential": ssp.delays.ShiftedExponential(shift=0.8, mean=0.2),
}
ROUNDS = {"smoke": 40, "laptop": 500, "paper": 5000}  # of 30 clocks, of the clockwork
UPDATES = {"smoke": 300, "laptop": 6000, "paper": 6000}
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.5,),
    "laptop": (0.03, 0.3, 0.5, 1.0),  # the best of each by staleness_scaling, and one above
    "paper": staleness_scaling.RATES,
}


def staleness(delay: str, n: int, size: Size, seeds: int) -> Row:
    """What stale deltas n-softsync merges, from the clockwork alone."""
    means: list[float] = []
    largest: list[int] = []
    above: list[float] = []
    for seed in range(seeds):
        updates = ROUNDS[size] * WORKERS
        run = outcome.clockwork(
            ssp.Softsync(n=n), WORKERS, DELAYS[delay], seed, max_updates=updates
        )
        stale = outcome.staleness(run)[WORKERS:]  # the first clocks of all began at version 0
        means.append(float(stale.mean()))
        largest.append(int(stale.max()))
        above.append(float((stale > 2 * n).mean()))
    about: Row = {"kind": "staleness", "delay": delay, "n": n}
    return {**about, "mean": means, "max": largest, "above": above}


def measure(size: Size, seeds: int) -> list[Row]:
    def run(cell: Cell, rate: float, seed: int) -> Row:
        made = staleness_scaling.experiment(cell["label"], rate, seed)
        return outcome.curve(replace(made, max_updates=UPDATES[size]), "test_loss")

    rows = [staleness(delay, n, size, seeds) for delay in DELAYS for n in PARTS]
    return rows + Study(crossed(label=METHODS), RATES[size], range(seeds), run).grid()


def at(rows: Rows, rate: float) -> list[Mapping[str, Any]]:
    return [row for row in common.runs(rows) if row["rate"] == rate]


def best(rows: Rows, label: str) -> float:
    """The rate with the smallest last loss, the median over the seeds."""
    rates = dict.fromkeys(row["rate"] for row in common.runs(rows))
    return min(rates, key=lambda rate: common.last(at(rows, rate), label))


def at_common(rows: Rows) -> list[Mapping[str, Any]]:
    """All runs at the best rate of synchronous training."""
    return at(rows, best(rows, "BSP"))


def accuracies(rows: Rows, label: str) -> list[float]:
    """At the end, seed by seed; 0 where it diverged."""
    return [
        float(row["metrics"]["test_accuracy"]) if row["status"] != "diverged" else 0.0
        for row in common.runs(rows, label)
    ]


def measured(rows: Rows, delays: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if row["kind"] == "staleness" and row["delay"] in delays)
