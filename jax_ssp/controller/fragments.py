"""Parameters in fragments: which of them a clock pushes, and which its worker adopts.

With P fragments the delta of clock c is of fragment c mod P alone, and the next clock adopts that
one; of the others the worker goes on with what it has. So what a delta is measured from is the
version that its worker adopted when it had pushed that fragment last, P clocks before; or that of
its first clock here, which adopts all of them, as does one after a cancelled clock or a delta that
was not finite. Staleness counts the versions that have merged the fragment.

With one fragment all of this is what it would be without: each clock adopts a whole version.

Reference:
    Douillard et al. 2025, "Streaming DiLoCo with overlapping communication", arXiv:2501.18512.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax_ssp.policies.base import Policy


def check_goes_with(policy: Policy, num_fragments: int) -> int:
    """Give the number of fragments back if the policy goes with so many.

    Raises:
        ValueError: if it does not, naming it and the remedy.
    """
    if num_fragments > 1 and not policy.takes_fragments:
        raise ValueError(
            f"`fragments={num_fragments}`: {policy} cancels clocks, or wants all deltas of one "
            "version or round, and parameters in fragments do not go with that; use another "
            "policy, or no fragments."
        )
    return num_fragments


def pushed_in(clock: int, num_fragments: int) -> int:
    """The fragment that a clock pushes.

    Example:
        >>> [pushed_in(clock, num_fragments=3) for clock in range(5)]
        [0, 1, 2, 0, 1]
    """
    return clock % num_fragments


def adopted_in(clock: int, num_fragments: int) -> int:
    """The fragment that a clock adopts, if it does not adopt all of them.

    Example:
        >>> [adopted_in(clock, num_fragments=3) for clock in range(1, 5)]
        [0, 1, 2, 0]
    """
    return (clock - 1) % num_fragments


def by_fragment(
    pushes: Sequence[Any],
    num_fragments: int,
    weigh: Callable[[Sequence[Any]], Sequence[float]],
) -> list[float]:
    """The weights of a merge's deltas, those of each fragment by themselves.

    Args:
        pushes: of the merge.
        num_fragments: of the parameters.
        weigh: gives the weights of deltas of one fragment.
    """
    weights = [0.0] * len(pushes)
    for fragment in {pushed_in(push.clock, num_fragments) for push in pushes}:
        its = [n for n, p in enumerate(pushes) if pushed_in(p.clock, num_fragments) == fragment]
        for number, weight in zip(its, weigh([pushes[n] for n in its]), strict=True):
            weights[number] = weight
    return weights
