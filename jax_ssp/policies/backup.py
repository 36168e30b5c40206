"""Backup workers: synchronous training that does not wait for the slowest few."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy
from jax_ssp.policies.decision import NOTHING, Decision, Wait
from jax_ssp.policies.rules import drop_outdated, merge_first, until_merged
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class BackupWorkers(Policy):
    """Merge the first W - b deltas on the newest version as one, and drop those that come too late.

    Every merged delta has staleness 0. A late worker computes its clock to the end, is dropped, and
    starts its next on the newest version (unlike under `KSync`, nobody is cancelled).

    The source averages the W - b deltas: that is `weight="merged"`.

    Args:
        b: backup workers, of the W.

    Raises:
        ValueError: if `b` is negative; `train` raises it if nobody but backups would be left.

    Example:
        >>> BackupWorkers(b=2).usual_merge(num_workers=8)
        6

    Reference:
        Chen, Pan, Monga, Bengio, Jozefowicz 2016, "Revisiting distributed synchronous SGD",
        arXiv:1604.00981.
    """

    b: int = 1

    def __post_init__(self) -> None:
        put(self, "b", integer, least=0)

    def check(self, num_workers: int) -> None:
        if self.b >= num_workers:
            raise ValueError(
                f"`BackupWorkers(b={self.b})` leaves no worker of {num_workers} to wait for; make "
                f"`b` at most {num_workers - 1}."
            )

    def guaranteed_staleness(self, num_workers: int) -> int:
        return 0

    def usual_merge(self, num_workers: int) -> int:
        return max(1, num_workers - self.b)

    @property
    def waits_for_own(self) -> bool:
        return True

    def admit(self, view: View, worker: int) -> bool | Wait:
        return until_merged(view, worker)

    def ready(self, view: View) -> Decision:
        outdated, count = drop_outdated(view), self.usual_merge(view.num_workers)
        if outdated or len(view.buffered) < count:  # then all workers need not be looked at
            return outdated or NOTHING
        # A delta of somebody who is gone since is merged too, but in nobody's place.
        gone = len(view.buffered) - sum(map(view.buffered_of, view.workers))
        return merge_first(view, count + gone)
