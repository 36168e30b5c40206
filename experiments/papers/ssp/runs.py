"""The runs of `ssp`: three problems under every bound, and the clockwork alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

import jax_ssp as ssp
from experiments.papers import common
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads.classical import Lasso, LogisticRegression, MatrixFactorization
from jax_ssp.report.papers import Row, Rows, Size

BOUNDS: dict[Size, tuple[int, ...]] = {
    "smoke": (3, 31),
    "laptop": (1, 3, 7, 31),
    "paper": (1, 3, 7, 15, 31),
}
WORKERS = {"smoke": 8, "laptop": 16, "paper": 32}
CLOCKS = {"smoke": 12, "laptop": 200, "paper": 2000}  # of each worker
CLOCKWORK = {"smoke": 40, "laptop": 1500, "paper": 10_000}  # the same, without gradients
SIZES = (1, 2, 4, 8, 16, 32)  # workers, of the clockwork
DELAY = ssp.delays.ShiftedExponential(shift=0.5, mean=0.5)
SINGLE = "1 worker"
LEVELS = (0.9, 0.99)  # shares of what BSP gains


class Problem(NamedTuple):
    """A workload, the learning rates tried on it, and whether the deltas are to be summed."""

    workload: Any
    rates: tuple[float, ...]
    summed: bool = False


PROBLEMS = {
    "matrix factorization": Problem(MatrixFactorization(), (7.5, 15.0, 30.0, 60.0)),
    "Lasso": Problem(Lasso(), (0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.8), summed=True),
    "logistic regression": Problem(LogisticRegression(), (0.3, 1.0, 3.0, 10.0)),
}


def policies(size: Size) -> dict[str, ssp.policies.Policy]:
    """By label; SSP reads as in the paper, from a cache that is kept until it is too old."""
    bounded = {f"SSP({bound})": ssp.SSP(bound, adopt="lazy") for bound in BOUNDS[size]}
    return {"BSP": ssp.BSP(), **bounded, "ASP": ssp.ASP()}


def measure(size: Size, seeds: int) -> list[Row]:
    rows = clockwork(size, seeds)
    methods = {SINGLE: (ssp.BSP(), 1)}
    methods |= {label: (policy, WORKERS[size]) for label, policy in policies(size).items()}

    def run(cell: Cell, rate: float, seed: int) -> Row:
        policy, workers = methods[cell["label"]]
        problem = PROBLEMS[cell["workload"]]
        return outcome.curve(made(problem, policy, workers, size, rate, seed), "objective")

    for name, problem in PROBLEMS.items():
        rates = problem.rates[1:2] if size == "smoke" else problem.rates
        cells = crossed(workload=[name], label=methods)
        rows += Study(cells, rates, range(seeds), run, tuning=(0,)).rows()
    return rows


def made(
    problem: Problem, policy: Any, workers: int, size: Size, rate: float, seed: int
) -> ssp.Experiment:
    """As many updates for all, of one weight, so that a rate means the same to all."""
    updates = CLOCKS[size] * WORKERS[size]
    return ssp.Experiment(
        workload=replace(problem.workload, learning_rate=rate),
        policy=policy,
        runtime=ssp.Virtual(workers, DELAY, seed),
        weight=1.0 if problem.summed else 1 / WORKERS[size],
        max_updates=updates,
        eval_every=max(1, updates // 50 // workers),
        seed=seed,
    )


def clockwork(size: Size, seeds: int) -> list[Row]:
    """The share of time that is waited, from the clockwork alone."""
    rows: list[Row] = []
    for label, policy in policies(size).items():
        for workers in SIZES:
            waiting: list[float] = []
            for seed in range(seeds):
                clocks = CLOCKWORK[size]
                run = outcome.clockwork(policy, workers, DELAY, seed, num_clocks=clocks)
                # Up to when the first is done: who is done does not wait.
                end = min(run.schedule["finish"][run.schedule["clock"] == clocks - 1])
                own = run.schedule[run.schedule["finish"] <= end]
                busy = float((own["finish"] - own["start"]).sum())
                waiting.append(1 - busy / (workers * float(end)))
            rows.append({"kind": "clockwork", "label": label, "workers": workers, "wait": waiting})
    return rows


def of(rows: Rows, workload: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row.get("workload") == workload]


def bounds(rows: Rows) -> list[int]:
    """Those measured, ascending."""
    labels = dict.fromkeys(row["label"] for row in rows)
    return [int(label[4:-1]) for label in labels if label.startswith("SSP")]


def waits(rows: Rows, label: str, workers: int) -> float:
    (row,) = [
        row
        for row in rows
        if row["kind"] == "clockwork" and (row["label"], row["workers"]) == (label, workers)
    ]
    return statistics.fmean(row["wait"])


def needed(rows: Rows, workload: str, label: str, share: float, axis: str) -> float:
    """Seconds or updates until so much is gained of what BSP gains in its run of the same seed."""
    own = of(rows, workload)
    found: list[float] = []
    for bulk in common.runs(own, "BSP"):
        level = common.part_way(bulk["values"][0], bulk["values"][-1], share)
        (row,) = [row for row in common.runs(own, label) if row["seed"] == bulk["seed"]]
        found.append(common.time_to([row], label, level, axis))
    return statistics.median(found)


def relative(rows: Rows, workload: str, label: str, what: str) -> float:
    """What is needed to come to the higher level, over what BSP needs, if BSP comes to it."""
    bulk = needed(rows, workload, "BSP", LEVELS[-1], what)
    measured = bulk and math.isfinite(bulk)
    return needed(rows, workload, label, LEVELS[-1], what) / bulk if measured else math.nan


def speed(rows: Rows, workload: str, label: str) -> float:
    """Updates a second, the mean over the seeds."""
    own = common.runs(of(rows, workload), label)
    return statistics.fmean(row["total_updates"] / row["total_seconds"] for row in own)


def step(rows: Rows, workload: str) -> int:
    """Updates from one evaluation to the next, at the most."""
    return max(
        int(np.diff(row["updates"]).max(initial=0)) for row in common.runs(of(rows, workload))
    )


def plot_reached(axis: Axes, values: Sequence[float], shift: float = 0.0, **look: Any) -> None:
    """Draw values at 0, 1, 2 and so on; what is infinite as an open marker at the upper edge."""
    at = np.arange(len(values)) + shift
    finite = np.isfinite(values)
    axis.plot(at, np.where(finite, values, np.nan), **look)
    look |= {"ls": "none", "fillstyle": "none", "label": None, "clip_on": False}
    if not finite.all():
        edge = np.ones((~finite).sum())
        axis.plot(at[~finite], edge, transform=axis.get_xaxis_transform(), **look)


def focus(axis: Axes, first: float, last: float) -> None:
    """Show the lower part of curves on a linear scale, unless nothing came to an end."""
    axis.set_yscale("linear")
    if math.isfinite(last):
        axis.set_ylim(last - 0.04 * (first - last), last + 0.4 * (first - last))
