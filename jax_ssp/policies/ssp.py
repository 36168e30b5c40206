"""Stale-synchronous parallel: run ahead of the slowest, but by no more than a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jax_ssp.checks import choice, integer, put
from jax_ssp.policies.base import Policy
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class SSP(Policy):
    """Admit a worker to clock c once the newest version covers c - bound; merge on arrival.

    At bound 0 the deltas of a clock are merged at the barrier, as one version: `SSP(bound=0)` is
    `BSP()`.

    Args:
        bound: the s of SSP (clocks).
        adopt: "eager" takes the newest version at every clock (ESSP); "lazy" keeps the snapshot a
            worker holds, and adds its own deltas to it, until that is too old for the bound (the
            cached read of the first SSP; fewer transfers, more staleness). Own deltas are added
            with the server's weight; what its transform would make of them is not known yet.

    Raises:
        ValueError: if `bound` is negative or `adopt` is neither "eager" nor "lazy".

    Example:
        >>> SSP(bound=3).guaranteed_bound
        3
        >>> SSP(bound=-1)
        Traceback (most recent call last):
        ValueError: `SSP(bound=...)` must be non-negative, got -1.

    Reference:
        Ho et al. 2013, "More effective distributed ML via a stale synchronous parallel parameter
        server", NeurIPS. Eager adoption: Dai et al. 2015, arXiv:1410.8043.
    """

    bound: int = 3
    adopt: Literal["eager", "lazy"] = "eager"

    def __post_init__(self) -> None:
        put(self, "bound", integer, least=0)
        put(self, "adopt", choice, ("eager", "lazy"))

    @property
    def guaranteed_bound(self) -> int:
        return self.bound

    @property
    def admits_within(self) -> int:
        return self.bound

    def guaranteed_staleness(self, num_workers: int) -> int | None:
        eager = super().guaranteed_staleness(num_workers)
        if eager is None or self.adopt == "eager":
            return eager
        return eager + self.bound  # a worker's own clocks since the snapshot that it keeps

    @property
    def always_adopts(self) -> bool:
        return self.adopt == "eager" and type(self).adopts is SSP.adopts

    def adopts(self, view: View, worker: int) -> bool:
        if self.adopt == "eager":
            return True
        return view.held_coverage(worker) < view.clock(worker) - self.bound
