"""A quorum, and a grace window for those who come a little later."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import flag, integer, number, put
from jax_ssp.policies.base import Policy, no_more_than, remembered
from jax_ssp.policies.decision import NOTHING, Decision, Wait
from jax_ssp.policies.rules import until_merged
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class Quorum(Policy):
    """Once K deltas are there, wait `grace` seconds for more, then merge them all at once.

    They are one version, or with `apart` each a version of its own, in the order in which they
    came, so that a server optimizer makes a step for each. Their workers then adopt the last of
    these, and the deltas have a staleness of 0, 1, 2, ... at least.

    Nothing is waited for once nobody runs. Who has pushed waits for the merge; who comes after it
    is part of the next one.

    Args:
        k: deltas that make a quorum.
        grace: the window after that (seconds, virtual or wall).
        apart: make each delta of the window a merge of its own.

    Raises:
        TypeError: if `k` is not an integer, `grace` not a number, or `apart` not a bool.
        ValueError: if `k` is less than 1, or `grace` negative or not finite; `train` raises it if
            `k` is more than the workers.

    Example:
        >>> Quorum(k=4, grace=0.5)
        Quorum(k=4, grace=0.5, apart=False)

    Reference:
        Liu, Chhaparia, Douillard et al. 2024, "Asynchronous local-SGD training for language
        modeling", arXiv:2401.09135 (a grace period after the first, so K = 1, in which each delta
        is a server step of its own: `Quorum(k=1, grace=..., apart=True)`); Douillard et al.
        2026, "Decoupled DiLoCo for resilient distributed pre-training", arXiv:2604.21428 (a quorum,
        and a window that adapts itself, where this one is fixed).
    """

    k: int = 2
    grace: float = 0.5
    apart: bool = False
    _left: list[int] = remembered(list)  # deltas of a closed window that are not merged yet
    _since: list[float] = remembered(list)  # when the quorum was there (seconds), or empty

    def __post_init__(self) -> None:
        put(self, "k", integer, least=1)
        put(self, "grace", number, least=0)
        put(self, "apart", flag)

    def check(self, num_workers: int) -> None:
        no_more_than(self, "k", num_workers)

    def usual_merge(self, num_workers: int) -> int:
        return 1 if self.apart else self.k

    @property
    def waits_for_own(self) -> bool:
        return True

    def admit(self, view: View, worker: int) -> bool | Wait:
        return until_merged(view, worker)

    def ready(self, view: View) -> Decision:
        if self._left:  # asked again after a merge, with nothing come in between
            return self._next(view)
        if len(view.buffered) < self.k:
            self._since.clear()
            return NOTHING
        if not self._since:
            self._since.append(view.now)
        deadline = self._since[0] + self.grace
        if view.now < deadline and view.num_running:
            return Decision(wake=deadline)
        self._since.clear()
        if not self.apart:
            return Decision(merge=tuple(view.buffered))
        self._left.append(len(view.buffered))
        return self._next(view)

    def _next(self, view: View) -> Decision:
        """Merge the first delta of the window alone."""
        left = self._left.pop() - 1
        if left:
            self._left.append(left)
        return Decision(merge=[next(iter(view.buffered))])
