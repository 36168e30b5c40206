"""Gap-Aware against staleness-aware and plain ASGD, as the number of workers grows."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import optax
from matplotlib.axes import Axes

import jax_ssp as ssp
from experiments.papers import common
from experiments.papers import mitigations_cells as cells
from experiments.workloads.digits import DigitsMLP
from jax_ssp.mitigations import scale_by_gap, scale_by_staleness
from jax_ssp.report.papers import Claim, Row, Rows, Size

METHODS: dict[str, Any] = {
    "ASGD": ssp.configured(optax.identity),
    "staleness-aware": ssp.configured(scale_by_staleness, exponent=1.0),
    "Gap-Aware": ssp.configured(scale_by_gap, weight="sum"),
}
FAILS = 10  # points of the error, or more
NEAR = 1  # a point
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


def error(rows: Rows, label: str, workers: int, rate: float | None = None) -> float:
    """The median test error (%) at a rate, by default the best of this cell."""
    own = cells.where(rows, study="gap", label=label, workers=workers)
    if rate is None:
        return cells.at_best(own, "error")
    return cells.median(cells.where(own, rate=rate), "error")


def alone(rows: Rows) -> float:
    """The best rate of a single worker."""
    return cells.best_rate(cells.where(rows, study="gap", workers=1))


def several(rows: Rows) -> list[int]:
    return sorted({row["workers"] for row in cells.where(rows, study="gap")} - {1})


def said(rows: Rows, rate: float | None) -> str:
    of = "the best rates" if rate is None else f"rate {rate:g}"
    parts = [
        f"W = {workers}: "
        + ", ".join(f"{label} {error(rows, label, workers, rate):.1f}" for label in METHODS)
        for workers in several(rows)
    ]
    single = error(rows, "ASGD", 1)
    return f"test error (%) at {of}: W = 1: {single:.1f}; {'; '.join(parts)}"


def fails(rows: Rows) -> tuple[bool, str]:
    rate = alone(rows)
    single, many = (error(rows, "ASGD", workers, rate) for workers in (1, several(rows)[-1]))
    return common.sooner(single + FAILS, many), said(rows, rate)


def keeps(rows: Rows) -> tuple[bool, str]:
    """Whether Gap-Aware with the most workers is as good as one worker, at the rate of that one."""
    rate = alone(rows)
    single = error(rows, "ASGD", 1, rate)
    many = error(rows, "Gap-Aware", several(rows)[-1], rate)
    return math.isfinite(single) and common.at_most(many, single + NEAR), said(rows, rate)


def below(rows: Rows, other: str, swept: bool) -> tuple[bool, str]:
    """Whether Gap-Aware's error is below another's with the most workers, by a point or more."""
    rate = None if swept else alone(rows)
    most = several(rows)[-1]
    holds = common.at_most(error(rows, "Gap-Aware", most, rate), error(rows, other, most, rate) - 1)
    return holds and math.isfinite(error(rows, "ASGD", 1)), said(rows, rate)


CLAIMS = (
    Claim(
        "Gap-Aware: with the most workers ASGD at a single worker's rate fails, its error being "
        f"more than {FAILS} points above that of one worker",
        fails,
        "paper",
    ),
    Claim(
        "with the most workers at that rate, Gap-Aware's error is within a point of that of one "
        "worker",
        keeps,
        "paper",
    ),
    *(
        Claim(
            f"with the most workers, {'each at its own best' if swept else 'at that'} rate, "
            f"Gap-Aware's error is at least a point below that of {other}",
            partial(below, other=other, swept=swept),
            "ours" if swept else "paper",
        )
        for swept in (False, True)
        for other in ("ASGD", "staleness-aware")
    ),
)


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for label in METHODS:
        for workers in [1] * (label == "ASGD") + several(rows):
            own = cells.where(rows, study="gap", label=label, workers=workers)
            fixed = common.spread(cells.numbers(cells.where(own, rate=alone(rows)), "error"))
            found.append(
                {
                    "study": f"{label}, test error (%)",
                    "setting": f"W = {workers}",
                    "median (range)": common.spread(cells.numbers(cells.of_best(own), "error")),
                    "best rate": cells.marked_rate(own),
                    "mean staleness": cells.staleness(own),
                    "other": f"loss {cells.at_best(own, 'loss'):.3f}; error {fixed} at "
                    f"rate {alone(rows):g}",
                }
            )
    return found


def draw(axis: Axes, rows: Rows) -> None:
    rate = alone(rows)
    for label in METHODS:
        at = ([1] if label == "ASGD" else []) + several(rows)
        own = [cells.where(rows, study="gap", label=label, workers=w) for w in at]
        look = cells.LOOKS[label]
        shown: dict[str, Any] = {"color": look.color, "marker": look.marker}
        best = [cells.numbers(cells.of_best(cell), "error") for cell in own]
        cells.draw_line(axis, at, best, **shown, label=label)
        fixed = [cells.numbers(cells.where(cell, rate=rate), "error") for cell in own]
        cells.draw_line(axis, at, fixed, **shown, ls=":", markerfacecolor="white")
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, *several(rows)], [str(w) for w in (1, *several(rows))])
    axis.set(xlabel="workers", ylabel="test error (%)")
    cells.log_scale(axis)
    axis.legend(title=f"dotted: all at rate {rate:g}")
