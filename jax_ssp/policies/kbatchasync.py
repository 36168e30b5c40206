"""K-batch-async SGD: every K deltas are merged, whoever pushes them, and nobody waits."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy
from jax_ssp.policies.decision import Decision
from jax_ssp.policies.rules import merge_first
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class KBatchAsync(Policy):
    """Merge every K deltas as one version; who has pushed goes on at once on the newest version.

    That does not contain its own deltas which wait in the buffer still.

    The source averages the K deltas: that is `weight="merged"`.

    Args:
        k: deltas of a merge; 1 is `ASP()`.

    Raises:
        ValueError: if `k` is less than 1.

    Example:
        >>> KBatchAsync(k=4).usual_merge(num_workers=8)
        4

    Reference:
        Dutta, Joshi, Ghosh, Dube, Nagpurkar 2018, "Slow and stale gradients can win the race",
        arXiv:1803.01113.
    """

    k: int = 2

    def __post_init__(self) -> None:
        put(self, "k", integer, least=1)

    @property
    def reads_own(self) -> bool:
        return False

    def usual_merge(self, num_workers: int) -> int:
        return self.k

    def ready(self, view: View) -> Decision:
        return merge_first(view, self.k)
