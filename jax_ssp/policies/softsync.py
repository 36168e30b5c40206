"""n-softsync: about n merges for every round of pushes, so a mean staleness of about n."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy
from jax_ssp.policies.decision import Decision
from jax_ssp.policies.rules import merge_first
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class Softsync(Policy):
    """Merge every floor(W / n) deltas of W workers as one version; nobody waits.

    With equal workers the mean staleness is about n, and the largest at most 2 n: 1-softsync is
    nearly synchronous, and with n = W it is `ASP()`.

    The source averages the deltas of a merge: that is `weight="merged"`.

    Args:
        n: the splitting parameter.

    Raises:
        ValueError: if `n` is less than 1; `train` raises it if `n` is more than the workers.

    Example:
        >>> Softsync(n=2).usual_merge(num_workers=30)
        15

    Reference:
        Zhang, Gupta, Lian, Liu 2016, "Staleness-aware async-SGD for distributed deep learning",
        arXiv:1511.05950.
    """

    n: int = 1

    def __post_init__(self) -> None:
        put(self, "n", integer, least=1)

    def check(self, num_workers: int) -> None:
        if self.n > num_workers:
            raise ValueError(
                f"`Softsync(n={self.n})` splits {num_workers} workers into more parts than there "
                f"are; make `n` at most {num_workers}, where it is `ASP()`."
            )

    @property
    def reads_own(self) -> bool:
        return False

    def usual_merge(self, num_workers: int) -> int:
        return max(1, num_workers // self.n)

    def ready(self, view: View) -> Decision:
        return merge_first(view, self.usual_merge(view.num_workers))
