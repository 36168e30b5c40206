"""Bulk-synchronous parallel: everybody waits for everybody, each clock."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.policies.base import Policy


@dataclass(frozen=True)
class BSP(Policy):
    """Merge all deltas of a clock at the barrier, as one version; every staleness is 0.

    With `local_steps=1`, SGD and the mean weight this is one synchronous large-batch step a clock;
    with more local steps it is local SGD.

    Example:
        >>> BSP().guaranteed_bound
        0

    Reference:
        Valiant 1990, "A bridging model for parallel computation", doi:10.1145/79173.79181.
    """

    @property
    def guaranteed_bound(self) -> int:
        return 0

    @property
    def admits_within(self) -> int:
        return 0
