"""A quorum, and a grace window for those who come a little later."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, number, put
from jax_ssp.policies.base import (
    NOTHING,
    Decision,
    Policy,
    View,
    Wait,
    no_more_than,
    remembered,
    running,
    until_merged,
)


@dataclass(frozen=True)
class Quorum(Policy):
    """Once K deltas are there, wait `grace` seconds for more, then merge them all as one version.

    Nothing is waited for once nobody runs. Who has pushed waits for the merge; who comes after it
    is part of the next one.

    Args:
        k: deltas that make a quorum.
        grace: the window after that (seconds, virtual or wall).

    Raises:
        TypeError: if `k` is not an integer, or `grace` not a number.
        ValueError: if `k` is less than 1, or `grace` negative or not finite; `train` raises it if
            `k` is more than the workers.

    Example:
        >>> Quorum(k=4, grace=0.5)
        Quorum(k=4, grace=0.5)

    Reference:
        Liu, Chhaparia, Douillard et al. 2024, "Asynchronous local-SGD training for language
        modeling", arXiv:2401.09135 (a grace period after the first, so K = 1, in which each delta
        is a server step of its own; here all of a window are one); Douillard et al.
        2026, "Decoupled DiLoCo for resilient distributed pre-training", arXiv:2604.21428 (a quorum,
        and a window that adapts itself, where this one is fixed).
    """

    k: int = 2
    grace: float = 0.5
    _since: list[float] = remembered(list)  # when the quorum was there (seconds), or empty

    def __post_init__(self) -> None:
        put(self, "k", integer, least=1)
        put(self, "grace", number, least=0)

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
        if len(view.buffered) < self.k:
            self._since.clear()
            return NOTHING
        if not self._since:
            self._since.append(view.now)
        deadline = self._since[0] + self.grace
        if view.now < deadline and running(view):
            return Decision(wake=deadline)
        self._since.clear()
        return Decision(merge=tuple(view.buffered))
