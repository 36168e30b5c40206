"""The weight of a delta in a merge, and the share of its statistics: the one rule of both.

A weight is 1 / workers, 1, 1 / deltas of the merge, the delta's share of the merge's samples or
tokens, or a number; or the policy gives them (`Policy.weights`). The controller says it: for a
merge in `Merged.weight`, and for own deltas that are read before they are merged in
`StartClock.weight`. What is only averaged (BatchNorm statistics) enters by shares, which come to 1
at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

from jax_ssp.checks import MOST, choice, number
from jax_ssp.controller.ends import Counted

Weight: TypeAlias = Literal["mean", "sum", "merged", "samples", "tokens"] | float
NAMED = ("mean", "sum", "merged", "samples", "tokens")
"""Of the rules that have names."""
COUNTING = ("samples", "tokens")
"""Those that depend on what a push reports."""


def weight_of(weight: Weight, num_workers: int, merged: int = 1) -> float:
    """The factor of one delta, if it is like the others of its merge.

    Args:
        weight: "mean" gives 1 / num_workers, "sum" 1, "merged" 1 / merged, and so do "samples" and
            "tokens"; a number itself.
        num_workers: of the merge; see `Merge`.
        merged: deltas of the merge.

    Example:
        >>> weight_of("mean", num_workers=4), weight_of("merged", num_workers=4, merged=2)
        (0.25, 0.5)
    """
    match weight:
        case "mean":
            return 1.0 / num_workers
        case "sum":
            return 1.0
        case "merged" | "samples" | "tokens":
            return 1.0 / merged
        case _:
            return float(weight)


def weights_of(weight: Weight, num_workers: int, merged: Sequence[Counted]) -> list[float]:
    """The factor of each delta of a merge.

    Args:
        weight: the rule; by "samples" and "tokens" each has its share of those of the merge, and
            all are equal where there are none.
        num_workers: of the merge; see `Merge`.
        merged: what each reports.

    Example:
        >>> from jax_ssp.controller.ends import Totals
        >>> weights_of("tokens", 4, [Totals(tokens=300), Totals(tokens=100)])
        [0.75, 0.25]
    """
    if weight in COUNTING:
        counts: list[int] = [getattr(each, str(weight)) for each in merged]
        total = sum(counts)
        if total:
            return [count / total for count in counts]
    return [weight_of(weight, num_workers, len(merged))] * len(merged)


def shares_of(weight: Weight, weights: Sequence[float], num_workers: int) -> list[float]:
    """The share that each delta of a merge has in what is only averaged.

    Args:
        weight: the rule.
        weights: what it gave for each delta of the merge.
        num_workers: of the merge.

    Returns:
        Under "sum" and a number, which may be anything, 1 / the larger of workers and deltas; else
        each weight, over their sum where that is more than 1.

    Example:
        >>> shares_of("mean", [0.5, 0.5, 0.5, 0.5], num_workers=2), shares_of("sum", [1.0], 4)
        ([0.25, 0.25, 0.25, 0.25], [0.25])
    """
    if isinstance(weight, str) and weight != "sum":
        total = max(1.0, sum(weights))
        return [each / total for each in weights]
    return [1.0 / max(num_workers, len(weights))] * len(weights)


def check_weight(weight: Any, field: str = "weight") -> Weight:
    """Give the weight back if it is one.

    Raises:
        ValueError: if it is neither one of `NAMED` nor a finite number.
    """
    if not isinstance(weight, str):
        with contextlib.suppress(TypeError, ValueError):
            return float(number(field, weight, least=-MOST, most=MOST))
    otherwise = "or a finite number"
    return cast("Weight", choice(field, weight, NAMED, otherwise=otherwise))
