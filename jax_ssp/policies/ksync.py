"""K-sync SGD: the first K of the workers are enough, the others start anew."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy, no_more_than
from jax_ssp.policies.decision import NOTHING, Decision
from jax_ssp.policies.rules import in_order, running
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class KSync(Policy):
    """Merge the first K deltas of a clock as one version; whoever is slower is cancelled.

    All start each clock together on the newest version, so every staleness is 0. A cancelled clock
    counts as finished. On real devices a program cannot be interrupted: there a cancelled worker
    still computes to the end of its clock, and what it gives is thrown away; its next clock seems
    to take so much longer.

    The source averages the K deltas: that is `weight="merged"`.

    Args:
        k: deltas of a merge.

    Raises:
        ValueError: if `k` is less than 1; `train` raises it if `k` is more than the workers.

    Example:
        >>> KSync(k=2).guaranteed_staleness(num_workers=8)
        0

    Reference:
        Dutta, Joshi, Ghosh, Dube, Nagpurkar 2018, "Slow and stale gradients can win the race",
        arXiv:1803.01113.
    """

    k: int = 4

    def __post_init__(self) -> None:
        put(self, "k", integer, least=1)

    def check(self, num_workers: int) -> None:
        no_more_than(self, "k", num_workers)

    @property
    def guaranteed_bound(self) -> int:
        return 0

    @property
    def admits_within(self) -> int:
        return 0

    @property
    def cancels(self) -> bool:
        return True

    def usual_merge(self, num_workers: int) -> int:
        return self.k

    def ready(self, view: View) -> Decision:
        if len(view.buffered) < self.k:
            return NOTHING
        return Decision(
            merge=in_order(view.buffered),
            cancel=running(view),
            reason=f"{self.k} others were faster",
        )
