"""What is run for Ringmaster ASGD and Rennala SGD."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optax

import jax_ssp as ssp
from experiments.study import outcome
from experiments.study.study import Cell, Study, crossed
from experiments.workloads.quadratic import Quadratic, unequal
from jax_ssp.report.papers import Row, Size

ASGD, ADAPTIVE, RENNALA, BSP = "ASP", "ASP, step by delay", "Rennala", "BSP"
PLAIN, STOPS, CANCELS = "Ringmaster", "Ringmaster, stops", "KBatchSync (cancels)"
LABELS = (BSP, ASGD, ADAPTIVE, RENNALA, CANCELS, PLAIN, STOPS)
POINTS = 200  # of a curve
STEPS = 8  # the most times that a best step size is halved and doubled
DELAYS = {"root": "1 + √i + |N(0, √i)|", "linear": "i + |N(0, i)|"}


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    workers: int
    crowds: tuple[int, ...]  # other numbers of workers, for ASP and Ringmaster alone
    dimension: int
    gradients: int  # that `workers` compute in a run; crowds have as many seconds
    rates: tuple[float, ...]  # each a quarter of the next; the best is halved and doubled
    sizes: tuple[int, ...]  # of R and of the batch; in theory they do not depend on the workers
    clockwork: int  # workers of the check of the update times


SCALES: dict[Size, Scale] = {
    "smoke": Scale(16, (8,), 32, 200, (1 / 16,), (4,), 30),
    "laptop": Scale(
        *(256, (16, 64, 1024, 4096), 1729, 3000),
        *(tuple(4.0**-p for p in range(4)), (16, 64, 256), 4096),
    ),
    "paper": Scale(
        *(6174, (64, 512), 1729, 10**6),
        *(tuple(4.0**-p for p in range(6)), (16, 64, 256, 1024, 4096), 6174),
    ),
}


def policies(label: str, sizes: Sequence[int]) -> dict[int | None, ssp.Policy]:
    """What is tried, by R or batch where there is one."""
    match label:
        case "Rennala":
            return {batch: ssp.Rennala(batch) for batch in sizes}
        case "KBatchSync (cancels)":
            return {batch: ssp.KBatchSync(batch) for batch in sizes}
        case "BSP":
            return {None: ssp.BSP()}
        case "ASP" | "ASP, step by delay":
            return {None: ssp.ASP()}
        case _:
            return {r: ssp.Ringmaster(r, stops=label == STOPS) for r in sizes}


def clockwork(policy: ssp.Policy, taus: Sequence[float], updates: int) -> ssp.Result:
    delay = ssp.delays.PerWorker(taus)
    return outcome.clockwork(policy, len(taus), delay, seed=0, max_updates=updates)


@functools.cache
def updates_within(policy: ssp.Policy, taus: tuple[float, ...], seconds: float) -> int:
    """Deltas that a policy merges in so many virtual seconds, from the clockwork alone."""
    most = 64
    while (run := clockwork(policy, taus, most)).seconds < seconds:
        most *= 2
    merged = run.schedule[run.schedule["merge_version"] >= 0]
    return max(1, int((merged["finish"] <= seconds).sum()))


def horizon(kind: str, scale: Scale) -> float:
    """The virtual seconds in which all workers together compute that many gradients."""
    return scale.gradients / sum(1 / tau for tau in unequal(kind, scale.workers, 0))


def experiment(
    label: str, policy: ssp.Policy, rate: float, kind: str, workers: int, scale: Scale, seed: int
) -> ssp.Experiment:
    # The step size as it is up to a delay of W, then times W / delay: arXiv:2206.07638, 2206.08307.
    scaled = ssp.configured(
        ssp.mitigations.scale_by_staleness,
        exponent=1 / workers,
        shape="threshold",
        threshold=workers,
    )
    taus = unequal(kind, workers, seed)
    return ssp.Experiment(
        workload=Quadratic(scale.dimension),
        policy=policy,
        runtime=ssp.Virtual(workers, ssp.delays.PerWorker(taus), batch=64),
        delta_tx=scaled if label == ADAPTIVE else ssp.configured(optax.identity),
        weight=rate / policy.usual_merge(workers),
        max_updates=updates_within(policy, taus, horizon(kind, scale)),
        seed=seed,
    )


def ended(experiment: ssp.Experiment, seconds: float) -> Row:
    """One run: the gap of the version that the last worker to start read, over time."""
    result = outcome.run(experiment)
    rows, size = result.schedule, experiment.policy.usual_merge(result.tape.header["num_workers"])
    bases = {(row["worker"], row["clock"]): int(row["base_version"]) for row in rows}
    reads = sorted(
        (row["start"], bases[row["worker"], row["clock"]], row["metrics"]["gap"])
        for row in result.history
    )
    times = seconds * np.linspace(0, 1, POINTS) ** 2  # denser at the start
    which = np.searchsorted([start for start, _, _ in reads], times, "right") - 1
    seen = [reads[index] for index in which]
    merged = rows["merge_version"] >= 0
    settled = rows["finish"] <= result.seconds  # by the last merge, not by the end of the run
    values = [gap if math.isfinite(gap) else None for _, _, gap in seen]
    return {
        "kind": "run",
        "last": None if result.status == "diverged" else values[-1],
        "updates": [version * size for _, version, _ in seen],
        "seconds": times.tolist(),
        "values": values,
        "total_updates": result.updates,
        "thrown_away": float(1 - merged[settled].mean()),
        "mean_staleness": float(rows["staleness"][merged].mean()),
        "max_staleness": int(rows["staleness"].max()),
    }


def tuned(label: str, kind: str, workers: int, scale: Scale, seeds: int) -> list[Row]:
    """The best R or batch, each at the best of its step sizes on seed 0; then on all seeds."""
    choices = policies(label, scale.sizes)

    def run(cell: Cell, rate: float, seed: int) -> Row:
        policy = choices[cell["parameter"]]
        made = experiment(label, policy, rate, kind, workers, scale, seed)
        return ended(made, horizon(kind, scale))

    cells = crossed(label=[label], delay=[kind], workers=[workers], parameter=choices)
    rates = sorted(scale.rates)
    study = Study(cells, rates, range(seeds), run, tuning=(0,), refine=STEPS)
    found = [study.tune(cell) for cell in cells]
    swept = [
        {"kind": "swept", **each.cell, "rate": row["rate"], "last": row["last"]}
        for each in found
        for row in each.tried
    ]
    return swept + study.report(min(found, key=lambda each: each.scores[each.best]))


def update_times(workers: int, seeds: int) -> list[Row]:
    """The longest that R updates in a row of Ringmaster take, and the bound of its Lemma 4.1."""
    rows: list[Row] = []
    for kind in DELAYS:
        for r in (1, 8, 64):
            for stops in (False, True):
                ratios: list[float] = []
                for seed in range(seeds):
                    taus = unequal(kind, workers, seed)
                    run = clockwork(ssp.Ringmaster(r, stops), taus, max(200, 4 * r))
                    done = run.schedule[run.schedule["merge_version"] >= 0]
                    times = np.concatenate([[0.0], np.sort(done["finish"])])
                    ratios.append(float((times[r:] - times[:-r]).max() / longest(taus, r)))
                about = {"kind": "update times", "delay": kind, "workers": workers, "R": r}
                rows.append({**about, "stops": stops, "of the bound": ratios})
    return rows


def longest(taus: Sequence[float], r: int) -> float:
    """t(R) = 2 min over m of the harmonic mean of the m fastest times (1 + R / m)."""
    m = np.arange(1, len(taus) + 1)
    means = m / np.cumsum(1 / np.sort(taus))
    return float(2 * (means * (1 + r / m)).min())


def measure(size: Size, seeds: int) -> list[Row]:
    scale = SCALES[size]
    rows = update_times(scale.clockwork, seeds)
    for kind in DELAYS:
        for label in LABELS:
            rows += tuned(label, kind, scale.workers, scale, seeds)
    for workers in scale.crowds:
        for label in (ASGD, PLAIN):
            rows += tuned(label, "root", workers, scale, seeds)
    return rows
