"""The claims of `elastic`, and what of its rows they are about."""

from __future__ import annotations

import math
from functools import partial

from experiments.papers import common
from experiments.papers.mitigations import cells
from experiments.papers.mitigations.elastic.runs import METHODS
from jax_ssp.report.papers import Claim, Rows

SUFFERS = 2  # times the loss, or more
LOWER = 0.9  # times the loss, or less


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
