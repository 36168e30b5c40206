"""The claims of `depth`, and what of its rows they are about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from experiments.papers import common
from experiments.papers.depth.runs import (
    cells,
    labels,
    middle,
)
from jax_ssp.report.papers import Claim, Rows

MARGIN = 1.25  # of ratios: the fewest updates are some 64, known to 16


def slowdown(rows: Rows, family: str, label: str) -> float:
    """Updates at the most staleness over those at none; no number if those did not suffice."""
    own = cells(rows, family, label)
    return middle(own[-1]) / base(own)


def base(own: Sequence[Mapping[str, Any]]) -> float:
    """Updates without staleness; no number if the target was not reached."""
    without = middle(own[0])
    return without if math.isfinite(without) else math.nan


def shown(rows: Rows, family: str) -> tuple[dict[str, float], str]:
    found = {name: slowdown(rows, family, name) for name in labels(rows, family)}
    most = max(row["staleness"] for row in rows)
    each = ", ".join(f"{name}: {ratio:.1f}" for name, ratio in found.items())
    of = " by hidden layers" if family == "depth" else ""
    return found, f"times the updates at staleness {most}{of}: {each}"


def slows_all(rows: Rows, family: str) -> tuple[bool, str]:
    found, said = shown(rows, family)
    return all(ratio > MARGIN for ratio in found.values()), said


def deeper_suffers(rows: Rows) -> tuple[bool, str]:
    """Whether no ratio is below one of a shallower network, and the last is above the first."""
    found, said = shown(rows, "depth")
    ratios = list(found.values())
    ascend = all(deeper >= ratio / MARGIN for ratio, deeper in combinations(ratios, 2))
    return ascend and ratios[-1] > MARGIN * ratios[0], said


def deeper_needs_more(rows: Rows) -> tuple[bool, str]:
    own = [cells(rows, "depth", label) for label in labels(rows, "depth")]
    more = [middle(each[-1]) - base(each) for each in own]
    said = ", ".join(f"{each:g}" for each in more)
    ascend = all(deeper >= one for one, deeper in combinations(more, 2))
    holds = ascend and more[-1] > MARGIN * more[0]
    return holds, f"updates more at the most staleness, by depth: {said}"


def more_than_sgd(rows: Rows, name: str) -> tuple[bool, str]:
    found, said = shown(rows, "optimizer")
    return common.sooner(found["SGD"], found.get(name, math.nan), 1 / MARGIN), said


def adagrad_robust(rows: Rows) -> tuple[bool, str]:
    found, said = shown(rows, "optimizer")
    ours = found.get("Adagrad", math.nan)
    others = [ratio for name, ratio in found.items() if name not in ("SGD", "Adagrad")]
    return all(common.sooner(ours, other, 1 / MARGIN) for other in others), said


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "staleness slows the convergence of every optimizer",
        partial(slows_all, family="optimizer"),
        "paper",
    ),
    Claim(
        "staleness slows convergence at every depth",
        partial(slows_all, family="depth"),
        "paper",
    ),
    Claim("the deeper the network, the more it suffers in proportion", deeper_suffers, "abstract"),
    Claim(
        "the deeper, the more updates staleness costs (not normalised)",
        deeper_needs_more,
        "ours",
    ),
    *(
        Claim(f"{name} suffers more than SGD", partial(more_than_sgd, name=name), "paper")
        for name in ("Momentum", "Adam", "RMSProp")
    ),
    Claim("Adagrad suffers less than Momentum, Adam and RMSProp", adagrad_robust, "paper"),
)
