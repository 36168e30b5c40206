"""The weight of a delta in a merge: 1 / workers, 1, 1 / deltas of the merge, or a number.

The controller says it once, in `Merged.weight`; who adds own deltas before they are merged uses the
same rule.
"""

from __future__ import annotations

import contextlib
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
