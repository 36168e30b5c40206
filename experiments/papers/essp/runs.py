"""The runs of `essp`: lazy and eager reads at every bound, and how old what they read is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import jax_ssp as ssp
from experiments.papers import common
from experiments.papers.ssp import runs as ssp_runs
from experiments.papers.ssp.runs import CLOCKS, WORKERS, bounds
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads.classical import LogisticRegression
from jax_ssp.controller.commands import Merge, StartClock
from jax_ssp.controller.tape import Tape
from jax_ssp.report.papers import Row, Rows, Size

BOUNDS: dict[Size, tuple[int, ...]] = {
    "smoke": (1, 15),
    "laptop": (1, 3, 15, 31),
    "paper": (1, 3, 7, 15, 31, 63),
}
DELAYS: dict[str, Any] = {
    "even": ssp.delays.LogNormal(median=1.0, sigma=0.1),
    "uneven": ssp_runs.DELAY,
}
# Batches larger than in `ssp`, since the last value on one seed is to tell of the rates.
PROBLEMS = {
    "matrix factorization": ssp_runs.PROBLEMS["matrix factorization"],
    "logistic regression": ssp_runs.Problem(
        LogisticRegression(batch_size=32), (0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
    ),
}
LEVEL = ssp_runs.LEVELS[-1]  # of what BSP gains
NAMES = {"lazy": "SSP", "eager": "ESSP"}


def policies(size: Size) -> dict[str, ssp.SSP]:
    """By label."""
    return {
        f"{name}({bound})": ssp.SSP(bound, adopt="lazy" if adopt == "lazy" else "eager")
        for adopt, name in NAMES.items()
        for bound in BOUNDS[size]
    }


def measure(size: Size, seeds: int) -> list[Row]:
    rows: list[Row] = []
    for delay, model in DELAYS.items():
        for label, policy in policies(size).items():
            clocks = {"num_clocks": CLOCKS[size]}
            tapes = [
                outcome.clockwork(policy, WORKERS[size], model, seed, **clocks).tape
                for seed in range(seeds)
            ]
            counts = [reads(tape) for tape in tapes]
            total = [sum(each) for each in zip(*counts, strict=True)]
            rows.append({"kind": "reads", "delay": delay, "label": label, "counts": total})
    methods = {"BSP": ssp.BSP(), **policies(size)}

    def run(cell: Cell, rate: float, seed: int) -> Row:
        """As in `ssp`, but with even clocks."""
        problem, policy = PROBLEMS[cell["workload"]], methods[cell["label"]]
        made = ssp_runs.made(problem, policy, WORKERS[size], size, rate, seed)
        even = ssp.Virtual(WORKERS[size], DELAYS["even"], seed)
        return outcome.curve(replace(made, runtime=even), "objective")

    for name, problem in PROBLEMS.items():
        rates = problem.rates[2:3] if size == "smoke" else problem.rates
        cells = crossed(workload=[name], label=methods)
        rows += Study(cells, rates, range(seeds), run, tuning=(0,)).rows()
    return rows


def reads(tape: Tape) -> list[int]:
    """How many reads were at which clock differential; entry k counts those at -k.

    A worker that starts clock c on a version that holds all deltas of the clocks up to d reads at
    the differential d - c; at a barrier that is -1.
    """
    workers = tape.header["num_workers"]
    settled = np.zeros(workers, int)
    fresh = [0]  # of each version: clocks of which all deltas are in it
    found = np.zeros(tape.header["bound"] + 2, int)
    for _, _, commands in tape:
        for command in commands:
            if isinstance(command, StartClock):
                found[1 + command.clock - fresh[command.version]] += 1
            elif isinstance(command, Merge):
                for delta in command.deltas:
                    settled[delta.worker] += 1
                fresh.append(int(settled.min()))
    return found.tolist()


def ends(rows: Rows, name: str) -> tuple[str, str]:
    """The labels of the smallest and the largest bound."""
    every = bounds(rows)
    return f"{name}({every[0]})", f"{name}({every[-1]})"


def shown(rows: Rows) -> list[str]:
    return ["BSP", *(f"SSP({bound})" for bound in bounds(rows))]


def counts(rows: Rows, delay: str, label: str) -> np.ndarray:
    """Share of the reads at each differential; entry k is of those at -k."""
    (row,) = [
        row
        for row in rows
        if row["kind"] == "reads" and (row["delay"], row["label"]) == (delay, label)
    ]
    return np.array(row["counts"]) / sum(row["counts"])


def differential(rows: Rows, delay: str, label: str) -> float:
    """The mean clock differential of the reads (clocks)."""
    shares = counts(rows, delay, label)
    return -float(shares @ np.arange(len(shares)))


def at_rate(rows: Rows, workload: str, label: str, rate: float) -> float:
    """The last value at a rate, on the first seed; infinite if it diverged."""
    found = [
        row
        for row in rows
        if row["kind"] == "swept"
        and (row.get("workload"), row["label"], row["rate"]) == (workload, label, rate)
    ]
    return common.finite(found[0]["last"]) if found else float("inf")


def costs(rows: Rows, workload: str, rate: float | None) -> dict[str, list[float]]:
    """Of lazy and of eager reads at the smallest and the largest bound.

    Updates to the level, each at its best rate; or the last objective, all at one rate.
    """
    return {
        name: [
            ssp_runs.needed(rows, workload, label, LEVEL, "updates")
            if rate is None
            else at_rate(rows, workload, label, rate)
            for label in ends(rows, name)
        ]
        for name in NAMES.values()
    }


def best_rate(rows: Rows, workload: str, label: str) -> float:
    return common.runs(ssp_runs.of(rows, workload), label)[0]["rate"]


def staleness(rows: Rows, workload: str, label: str) -> float:
    """The mean over the seeds (versions)."""
    every: list[Mapping[str, Any]] = common.runs(ssp_runs.of(rows, workload), label)
    return statistics.fmean(row["mean_staleness"] for row in every)
