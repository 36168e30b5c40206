"""The weight of a delta in a merge, and the share of its statistics: the one rule of both.

A weight is 1 / workers, 1, 1 / deltas of the merge, or a number. The controller says it: for a
merge in `Merged.weight`, and for own deltas that are read before they are merged in
`StartClock.weight`. What is only averaged (BatchNorm statistics) enters by shares, which come to 1
at most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

from jax_ssp.checks import MOST, choice, number

Weight: TypeAlias = Literal["mean", "sum", "merged"] | float


def weight_of(weight: Weight, num_workers: int, merged: int = 1) -> float:
    """The factor of one delta.

    Args:
        weight: "mean" gives 1 / num_workers, "sum" 1, "merged" 1 / merged, a number itself.
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
        case "merged":
            return 1.0 / merged
        case _:
            return float(weight)


def shares_of(weight: Weight, weights: Sequence[float], num_workers: int) -> list[float]:
    """The share that each delta of a merge has in what is only averaged.

    Args:
        weight: the rule.
        weights: what it gave for each delta of the merge.
        num_workers: of the merge.

    Returns:
        Under "mean" and "merged" each weight, over their sum where that is more than 1; under "sum"
        and a number, which may be anything, 1 / the larger of workers and deltas.

    Example:
        >>> shares_of("mean", [0.5, 0.5, 0.5, 0.5], num_workers=2), shares_of("sum", [1.0], 4)
        ([0.25, 0.25, 0.25, 0.25], [0.25])
    """
    if weight in ("mean", "merged"):
        total = max(1.0, sum(weights))
        return [each / total for each in weights]
    return [1.0 / max(num_workers, len(weights))] * len(weights)


def check_weight(weight: Any, field: str = "weight") -> Weight:
    """Give the weight back if it is one.

    Raises:
        ValueError: if it is neither "mean", "sum", "merged" nor a finite number.
    """
    if not isinstance(weight, str):
        with contextlib.suppress(TypeError, ValueError):
            return float(number(field, weight, least=-MOST, most=MOST))
    otherwise = "or a finite number"
    return cast("Weight", choice(field, weight, ("mean", "sum", "merged"), otherwise=otherwise))
