"""Elastic averaging (EASGD) against DOWNPOUR, as exchanges become rare."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from matplotlib.axes import Axes

import jax_ssp as ssp
from experiments.papers import common
from experiments.papers import mitigations_cells as cells
from experiments.workloads.digits import DigitsMLP
from jax_ssp.mitigations import elastic_average
from jax_ssp.report.papers import Claim, Row, Rows, Size

WORKERS = 8
SUFFERS = 2  # times the loss, or more
LOWER = 0.9  # times the loss, or less
ALPHA = 0.9 / WORKERS
METHODS: dict[str, dict[str, Any]] = {
    "EASGD": {
        "delta_tx": ssp.configured(elastic_average, alpha=ALPHA),
        "adopt": ssp.Mix(1 - ALPHA),
        "weight": "sum",
    },
    "DOWNPOUR": {"weight": "sum"},
    "DOWNPOUR, mean": {"weight": "mean"},
}
PERIODS: dict[Size, tuple[int, ...]] = {
    "smoke": (1, 4),
    "laptop": (1, 4, 16),
    "paper": (1, 4, 16, 64),
}
STEPS = {"smoke": 16, "laptop": 256, "paper": 2560}  # of each worker
RATES: dict[Size, tuple[float, ...]] = {
    "smoke": (0.1,),
    "laptop": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "paper": (0.0003, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
}


def measure(size: Size, seeds: int) -> list[Row]:
    def made(rate: float, seed: int, period: int, label: str) -> ssp.Experiment:
        return ssp.Experiment(
            workload=DigitsMLP(learning_rate=rate),
            policy=ssp.ASP(),
            runtime=ssp.Virtual(WORKERS, ssp.delays.LogNormal(1.0, 0.3), seed),
            local_steps=period,
            num_clocks=STEPS[size] // period,
            seed=seed,
            **METHODS[label],
        )

    rows: list[Row] = []
    for period in PERIODS[size]:
        for label in METHODS:
            about = {"study": "elastic", "label": label, "period": period}
            make = partial(made, period=period, label=label)
            rows += cells.ran(about, make, RATES[size], seeds)
    return rows


def cell(rows: Rows, label: str, period: int) -> Rows:
    return cells.where(rows, study="elastic", label=label, period=period)


def periods(rows: Rows) -> list[int]:
    return sorted({row["period"] for row in cells.where(rows, study="elastic")})


def losses(rows: Rows, label: str) -> list[float]:
    """The last loss at the best rate, by period."""
    return [cells.at_best(cell(rows, label, period), "loss") for period in periods(rows)]


def said(rows: Rows, labels: tuple[str, ...]) -> str:
    parts = [
        f"{label} {', '.join(f'{loss:.3f}' for loss in losses(rows, label))}" for label in labels
    ]
    return f"last loss at tau = {', '.join(map(str, periods(rows)))}: {'; '.join(parts)}"


def better_when_rare(rows: Rows, other: str) -> tuple[bool, str]:
    holds = common.at_most(losses(rows, "EASGD")[-1], losses(rows, other)[-1], LOWER)
    return holds, said(rows, ("EASGD", other))


def growth(rows: Rows, label: str) -> float:
    """The loss at the longest period over that at the shortest; no number if that diverged."""
    own = losses(rows, label)
    return own[-1] / own[0] if math.isfinite(own[0]) else math.nan


def downpour_suffers(rows: Rows) -> tuple[bool, str]:
    return growth(rows, "DOWNPOUR") >= SUFFERS, said(rows, ("DOWNPOUR",))


def easgd_suffers_less(rows: Rows) -> tuple[bool, str]:
    ratios = {label: growth(rows, label) for label in METHODS}
    shown = ", ".join(f"{label} {ratio:.2f}" for label, ratio in ratios.items())
    holds = common.at_most(ratios["EASGD"], ratios["DOWNPOUR"], LOWER)
    return holds, f"loss at the longest period over that at tau = 1: {shown}"


def easgd_improves(rows: Rows) -> tuple[bool, str]:
    """Whether the last test error at the longest period is no higher than at the shortest."""
    errors = [cells.at_best(cell(rows, "EASGD", period), "error") for period in periods(rows)]
    shown = ", ".join(f"{error:.2f}" for error in errors)
    at = ", ".join(map(str, periods(rows)))
    learned = all(map(math.isfinite, losses(rows, "EASGD")))
    return learned and errors[-1] <= errors[0], f"test error (%) at tau = {at}: {shown}"


TENTH = f"{1 - LOWER:.0%}"
CLAIMS = (
    Claim(
        f"EASGD: DOWNPOUR's loss at the longest period is {SUFFERS} times that at tau = 1, or more",
        downpour_suffers,
        "paper",
    ),
    Claim(f"EASGD's grows by a factor at least {TENTH} smaller", easgd_suffers_less, "ours"),
    Claim("EASGD's test error does not grow with the period", easgd_improves, "paper"),
    Claim(
        f"at the longest period EASGD ends at least {TENTH} lower than DOWNPOUR",
        partial(better_when_rare, other="DOWNPOUR"),
        "paper",
    ),
    Claim(
        f"and at least {TENTH} lower than DOWNPOUR that weighs its deltas 1/W",
        partial(better_when_rare, other="DOWNPOUR, mean"),
        "ours",
    ),
)


def table(rows: Rows) -> list[Row]:
    found: list[Row] = []
    for label in METHODS:
        for period in periods(rows):
            own = cell(rows, label, period)
            error = common.spread(cells.numbers(cells.of_best(own), "error"))
            found.append(
                {
                    "study": f"{label}, last test loss",
                    "setting": f"tau = {period}",
                    "median (range)": common.spread(cells.numbers(cells.of_best(own), "loss")),
                    "best rate": cells.marked_rate(own),
                    "mean staleness": cells.staleness(own),
                    "other": f"error {error} %",
                }
            )
    return found


def draw(axis: Axes, rows: Rows) -> None:
    at = periods(rows)
    for label in METHODS:
        own = [cells.numbers(cells.of_best(cell(rows, label, each)), "loss") for each in at]
        cells.draw_line(axis, at, own, **cells.LOOKS[label]._asdict(), label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks(at, [str(period) for period in at])
    axis.set(xlabel="period tau (local steps)", ylabel="last test loss")
    cells.log_scale(axis)
    axis.legend()
