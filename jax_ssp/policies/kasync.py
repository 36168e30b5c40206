"""K-async SGD: the first K to push are merged and go on; nobody is cancelled."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy, no_more_than
from jax_ssp.policies.decision import Decision, Wait
from jax_ssp.policies.rules import merge_first, until_merged
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class KAsync(Policy):
    """Merge the first K deltas as one version; their workers wait for it, the others run on.

    The source averages the K deltas: that is `weight="merged"`.

    Args:
        k: deltas of a merge; 1 is `ASP()`.

    Raises:
        ValueError: if `k` is less than 1; `train` raises it if `k` is more than the workers.

    Example:
        >>> KAsync(k=2).usual_merge(num_workers=8)
        2

    Reference:
        Dutta, Joshi, Ghosh, Dube, Nagpurkar 2018, "Slow and stale gradients can win the race",
        arXiv:1803.01113.
    """

    k: int = 2

    def __post_init__(self) -> None:
        put(self, "k", integer, least=1)

    def check(self, num_workers: int) -> None:
        no_more_than(self, "k", num_workers)

    def usual_merge(self, num_workers: int) -> int:
        return self.k

    @property
    def waits_for_own(self) -> bool:
        return True

    def admit(self, view: View, worker: int) -> bool | Wait:
        return until_merged(view, worker)

    def ready(self, view: View) -> Decision:
        return merge_first(view, self.k)
