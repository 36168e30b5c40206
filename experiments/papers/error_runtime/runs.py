"""What is run for K-sync and K-async SGD: the clockwork alone, and training on two problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax_ssp as ssp
from experiments.papers import common
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads.classical import LogisticRegression
from experiments.workloads.digits import DigitsMLP
from jax_ssp.report.papers import Row, Size

WORKERS = 8
KINDS: dict[str, Any] = {
    "KSync": ssp.KSync,
    "KBatchSync": ssp.KBatchSync,
    "KAsync": ssp.KAsync,
    "KBatchAsync": ssp.KBatchAsync,
}
DELAYS: dict[str, Any] = {
    "exponential": ssp.delays.Exponential(mean=1.0),
    "shifted exponential": ssp.delays.ShiftedExponential(shift=1.0, mean=1.0),
}
TRAINED: dict[str, Any] = {
    "KSync(8)": ssp.KSync(8),
    "KSync(4)": ssp.KSync(4),
    "KBatchSync(4)": ssp.KBatchSync(4),
    "KAsync(4)": ssp.KAsync(4),
    "KBatchAsync(4)": ssp.KBatchAsync(4),
    "KAsync(1)": ssp.KAsync(1),
}
ITERATIONS = {"smoke": 500, "laptop": 4000, "paper": 40_000}
POINTS = 160  # of a curve


class Problem(NamedTuple):
    """What is trained, by which metric, at which learning rates, for how many virtual seconds."""

    workload: Callable[[float], ssp.Workload]
    metric: str
    rates: dict[Size, tuple[float, ...]]
    seconds: dict[Size, int]


PROBLEMS = {
    "logistic regression": Problem(
        lambda rate: LogisticRegression(penalty=0.01, batch_size=4, learning_rate=rate),
        "objective",
        {"smoke": (0.3,), "laptop": (0.03, 0.1, 0.3, 1.0), "paper": (0.03, 0.1, 0.3, 1.0)},
        {"smoke": 40, "laptop": 2400, "paper": 8000},
    ),
    "MLP": Problem(
        lambda rate: DigitsMLP(batch_size=4, learning_rate=rate),
        "test_loss",
        {"smoke": (0.1,), "laptop": (0.03, 0.1, 0.3, 1.0), "paper": (0.01, 0.03, 0.1, 0.3, 1.0)},
        {"smoke": 40, "laptop": 800, "paper": 8000},
    ),
}


def expected(kind: str, k: int) -> float:
    """Seconds an iteration by the paper's formulas, for exponential delays of mean 1."""
    if kind in ("KSync", "KAsync"):  # the k-th order statistic: who has pushed does not run
        return sum(1 / j for j in range(WORKERS - k + 1, WORKERS + 1))
    return k / WORKERS  # memoryless: k events of a Poisson process of rate WORKERS


def runtimes(size: Size, seeds: int) -> list[Row]:
    """Seconds an iteration of every kind at every K, from the clockwork alone."""
    rows: list[Row] = []
    for delay, model in DELAYS.items():
        for kind, policy in KINDS.items():
            for k in range(1, WORKERS + 1):
                updates = ITERATIONS[size] * k
                runs = [
                    outcome.clockwork(policy(k), WORKERS, model, seed, max_updates=updates)
                    for seed in range(seeds)
                ]
                measured = [run.seconds / run.version for run in runs]
                formula = expected(kind, k) if delay == "exponential" else None
                about = {"kind": "runtime", "delay": delay, "policy": kind, "k": k}
                rows.append({**about, "seconds": measured, "formula": formula})
    return rows


def trained(name: str, label: str, rate: float, size: Size, seed: int) -> Row:
    """One run of as many virtual seconds as all others."""
    problem, policy = PROBLEMS[name], TRAINED[label]
    merges = problem.seconds[size] / expected(type(policy).__name__, policy.k)
    made = ssp.Experiment(
        workload=problem.workload(rate),
        policy=policy,
        runtime=ssp.Virtual(WORKERS, DELAYS["exponential"], seed),
        weight="merged",  # the mean over the K of an iteration
        max_updates=round(merges * policy.k),
        eval_every=max(1, round(merges * policy.k / WORKERS / POINTS)),
        seed=seed,
    )
    return outcome.curve(made, problem.metric)


def common_rate(rows: list[Row]) -> float:
    """The largest rate at which every method at least halves the loss, on seed 0."""

    def good(row: Row) -> bool:
        return common.finite(row["last"]) < row["values"][0] / 2

    rates = {row["rate"] for row in rows}
    fine = [r for r in rates if all(good(row) for row in rows if row["rate"] == r)]
    return max(fine, default=min(rates))


def measure(size: Size, seeds: int) -> list[Row]:
    """All rates on seed 0; the one that is common to all methods on the other seeds too."""
    rows = runtimes(size, seeds)

    def run(cell: Cell, rate: float, seed: int) -> Row:
        return trained(cell["problem"], cell["label"], rate, size, seed)

    for name, problem in PROBLEMS.items():
        cells = crossed(problem=[name], label=TRAINED)
        study = Study(cells, problem.rates[size], range(seeds), run, tuning=(0,))
        tried = [row for cell in cells for row in study.tune(cell).tried]
        rate = common_rate(tried)
        again = [study.made(cell, rate, seed) for cell in cells for seed in range(1, seeds)]
        rows += [{**row, "common": row["rate"] == rate} for row in tried + again]
    return rows
