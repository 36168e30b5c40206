"""K-batch-sync SGD: K deltas on the newest version, from whomever, then all start anew."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy
from jax_ssp.policies.decision import NOTHING, Decision
from jax_ssp.policies.rules import running
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class KBatchSync(Policy):
    """Merge K deltas computed on the newest version as one; a fast worker may give several of them.

    A worker that has pushed goes on at once with its next batch on the same version. With the merge
    all running clocks are cancelled, so every staleness is 0. What a worker has pushed and is not
    merged yet, it does not read: all K are of the same parameters.

    The source averages the K deltas: that is `weight="merged"`.

    Args:
        k: deltas of a merge.

    Raises:
        ValueError: if `k` is less than 1.

    Example:
        >>> KBatchSync(k=4).guaranteed_staleness(num_workers=8)
        0

    Reference:
        Dutta, Joshi, Ghosh, Dube, Nagpurkar 2018, "Slow and stale gradients can win the race",
        arXiv:1803.01113.
    """

    k: int = 4

    def __post_init__(self) -> None:
        put(self, "k", integer, least=1)

    def guaranteed_staleness(self, num_workers: int) -> int:
        return 0

    @property
    def cancels(self) -> bool:
        return True

    @property
    def reads_own(self) -> bool:
        return False

    def usual_merge(self, num_workers: int) -> int:
        return self.k

    def ready(self, view: View) -> Decision:
        if len(view.buffered) < self.k:
            return NOTHING
        return Decision(
            merge=tuple(view.buffered),
            cancel=running(view),
            reason=f"the batch of {self.k} is full",
        )
