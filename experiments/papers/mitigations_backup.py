"""Backup workers: iterations and seconds to a target, as fewer are waited for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.axes import Axes

import jax_ssp as ssp
from experiments.papers import common
from experiments.papers import mitigations_cells as cells
from experiments.workloads.digits import DigitsMLP
from jax_ssp.report.papers import Claim, Row, Rows, Size
from jax_ssp.report.plots import style

DELAY = ssp.delays.Pareto(minimum=1.0, shape=1.5)  # heavy tail: its variance is infinite
TARGET = 0.4  # of the test loss
MORE = 1.5  # times the iterations, or more
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
GROWING, FIXED = SETTINGS
CLOCKS = {"smoke": 100, "laptop": 2000, "paper": 20_000}  # iterations of the clockwork
ITERATIONS = {"smoke": 120, "laptop": 300, "paper": 3000}  # of the training, at most
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.4,),
    "laptop": (0.1, 0.2, 0.4, 0.8),
    "paper": (0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
}


def pace(workers: int, b: int, iterations: int, seed: int) -> float:
    """Seconds an iteration, from the clockwork alone."""
    run = ssp.train(
        policy=ssp.BackupWorkers(b=b),
        runtime=ssp.Virtual(workers, DELAY, seed, compute=False),
        max_updates=iterations * (workers - b),
    )
    return run.seconds / run.version


def needed(workers: int, b: int, rate: float, seed: int, size: Size) -> int | None:
    """Iterations to the target; None if it was not reached."""
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
    run = common.run(experiment)
    reached = (row["version"] for row in run.evaluations if row["metrics"]["test_loss"] <= TARGET)
    return next(reached, None)


def measure(size: Size, seeds: int) -> list[Row]:
    rows: list[Row] = []
    for setting, sizes in SETTINGS.items():
        for workers, b in sizes[size]:
            tried = {rate: needed(workers, b, rate, 0, size) for rate in RATES[size]}
            best = min(tried, key=lambda rate: common.finite(tried[rate]))
            others = [needed(workers, b, best, seed, size) for seed in range(1, seeds)]
            row: Row = {"study": "backup", "setting": setting, "workers": workers, "b": b}
            row["rate"], row["iterations"] = best, [tried[best], *others]
            row["swept"] = [{"rate": rate, "iterations": n} for rate, n in tried.items()]
            row["pace"] = [pace(workers, b, CLOCKS[size], seed) for seed in range(seeds)]
            rows.append(row)
    return rows


def every_iterations(row: Mapping[str, Any]) -> list[float]:
    """To the target, of each seed; infinite if it was not reached."""
    return [common.finite(each) for each in row["iterations"]]


def every_seconds(row: Mapping[str, Any]) -> list[float]:
    """To the target, of each seed: its iterations times what one takes in the long run."""
    return [
        needed * takes for needed, takes in zip(every_iterations(row), row["pace"], strict=True)
    ]


def iterations(row: Mapping[str, Any]) -> float:
    """To the target, the median over the seeds."""
    return statistics.median(every_iterations(row))


def each_takes(row: Mapping[str, Any]) -> float:
    """Seconds an iteration, the median over the seeds."""
    return statistics.median(row["pace"])


def seconds(row: Mapping[str, Any]) -> float:
    return statistics.median(every_seconds(row))


def column(
    rows: Rows, setting: str, of: Callable[[Mapping[str, Any]], float]
) -> tuple[list[int], list[float], str]:
    own = cells.where(rows, study="backup", setting=setting)
    values = [of(row) for row in own]
    backups = [row["b"] for row in own]
    said = ", ".join(f"b = {b}: {value:.4g}" for b, value in zip(backups, values, strict=True))
    return backups, values, said


def faster_iterations(rows: Rows) -> tuple[bool, str]:
    found = [column(rows, setting, each_takes) for setting in SETTINGS]
    holds = all(values == sorted(values, reverse=True) for _, values, _ in found)
    parts = [f"{setting}: {said}" for setting, (_, _, said) in zip(SETTINGS, found, strict=True)]
    return holds, f"seconds an iteration: {'; '.join(parts)}"


def more_needed(rows: Rows) -> tuple[bool, str]:
    _, values, said = column(rows, FIXED, iterations)
    return common.at_most(MORE * values[0], values[-1]), f"iterations to the target: {said}"


def optimum_between(rows: Rows) -> tuple[bool, str]:
    _, values, said = column(rows, FIXED, seconds)
    best = values.index(min(values))
    return 0 < best < len(values) - 1, f"virtual seconds to the target: {said}"


def backups_save(rows: Rows) -> tuple[bool, str]:
    _, values, said = column(rows, GROWING, seconds)
    holds = all(common.sooner(value, values[0]) for value in values[1:])
    return holds and math.isfinite(values[0]), f"virtual seconds to the target: {said}"


CLAIMS = (
    Claim("Backup workers: the more backups, the faster an iteration", faster_iterations, "paper"),
    Claim(
        f"{MERGED} + b workers: every b > 0 comes to the target sooner than b = 0",
        backups_save,
        "paper",
    ),
    Claim(
        f"{TOTAL} in all: with most of them backups, {MORE:g} times as many iterations are needed, "
        "or more",
        more_needed,
        "paper",
    ),
    Claim(
        f"{TOTAL} in all: the time to the target is shortest in between", optimum_between, "paper"
    ),
)


def table(rows: Rows) -> list[Row]:
    return [
        {
            "study": f"Backup workers, {row['setting']}, seconds",
            "setting": f"b = {row['b']}",
            "median (range)": common.spread(every_seconds(row)),
            "best rate": common.marked(row["rate"], [each["rate"] for each in row["swept"]]),
            "mean staleness": "0",  # by the policy: who comes too late is dropped
            "other": f"{common.spread(every_iterations(row))} iterations of "
            f"{common.spread(row['pace'])} s",
        }
        for row in cells.where(rows, study="backup")
    ]


def draw(left: Axes, right: Axes, rows: Rows) -> None:
    """Iterations to the target, and seconds."""
    look: dict[str, Any] = style("BackupWorkers")._asdict()
    for axis, of in ((left, every_iterations), (right, every_seconds)):
        for setting, other in ((GROWING, {}), (FIXED, {"linestyle": ":", "marker": "o"})):
            own = cells.where(rows, study="backup", setting=setting)
            backups = [row["b"] for row in own]
            cells.draw_line(axis, backups, list(map(of, own)), **{**look, **other}, label=setting)
        axis.set(xlabel="backup workers b")
        axis.set_ylim(bottom=0)
        axis.legend()
    left.set_ylabel(f"iterations to test loss {TARGET:g}")
    right.set_ylabel(f"virtual seconds to test loss {TARGET:g}")
