"""Value-bounded asynchronous parallel: what others have not read yet may only be so large."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from jax_ssp.checks import number, put
from jax_ssp.policies.base import Policy, remembered
from jax_ssp.policies.view import Delta, View


@dataclass(frozen=True)
class VAP(Policy):
    """Admit a worker unless its deltas that some running worker has not read sum up to too much.

    Bounds the drift of the parameters by its size rather than by clocks: early, when deltas are
    large, workers wait for each other; later they need not. The size of several deltas is taken as
    the sum of their l2 norms, which is never less than the norm of their sum. It is looked at when
    a clock starts, so the delta of that clock may pass the limit. Where nothing is computed all
    norms are 0, and this is `ASP()`.

    Args:
        limit: the largest sum of norms (in the unit of the parameters, before the server's weight).

    Raises:
        TypeError: if `limit` is not a number.
        ValueError: if it is not positive and finite.

    Example:
        >>> VAP(limit=0.5).needs_norms
        True

    Reference:
        Wei, Dai, Kumar, Zheng, Ho, Xing 2013, "Consistent bounded-asynchronous parameter servers
        for distributed ML", arXiv:1312.7869; Dai, Kumar, Wei, Ho, Gibson, Xing 2015,
        "High-performance distributed ML at scale through parameter server consistency models",
        arXiv:1410.8043. There each number is bounded by itself, and the limit falls with
        1 / sqrt(t); here it is constant, and deltas themselves become smaller.
    """

    limit: float = 1.0
    # By worker: its deltas that somebody may not have read: (version they are in, norm).
    _unread: dict[int, deque[tuple[int, float]]] = remembered(dict)

    def __post_init__(self) -> None:
        put(self, "limit", number, above=0)

    @property
    def needs_norms(self) -> bool:
        return True

    def pushed(self, view: View, delta: Delta, norm: float) -> None:
        # Merged on arrival, it is in the next version.
        self._unread.setdefault(delta.worker, deque()).append((view.version + 1, norm))

    def admit(self, view: View, worker: int) -> bool:
        unread = self._unread.get(worker, deque())
        held = [
            view.held_version(other)
            for other in view.workers
            if other != worker and view.is_running(other)
        ]
        if not held:  # nobody is there to read anything; what was dropped is in no version either
            unread.clear()
            return True
        while unread and unread[0][0] <= min(held):
            unread.popleft()
        # Not "<= limit": a norm that is not a number must not keep anybody waiting.
        return not sum(norm for _, norm in unread) > self.limit
