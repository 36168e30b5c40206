"""A quorum, a grace window that adapts itself, and late deltas that are carried over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jax_ssp.checks import integer, number, put
from jax_ssp.policies.base import Policy, no_more_than, remembered
from jax_ssp.policies.decision import NOTHING, Decision, Wait
from jax_ssp.policies.view import Delta, Pushed, View


@dataclass(frozen=True)
class Decoupled(Policy):
    r"""Merge what is there once a quorum is, and a window after it; carry over what comes late.

    A *round* is a version. It begins with the first delta that is measured from it; once `quorum`
    of these are there, the others are waited for as long as that costs nobody anything, and then
    all that is there is merged. With :math:`s` the seconds of a local step (of the worker that is
    the fastest by its last clock), and :math:`q` those for which the first delta waited for the
    quorum, the window has

    .. math:: \max(0, \gamma (\tau s - q - \text{sync}))

    seconds: :math:`\tau` steps are what workers go on for while they wait (the `overlap` of the
    run), so :math:`\tau s` is the time that a round may take without holding up the fastest.

    Who has pushed in time waits for the merge. Who comes after it, late, goes on at once on the
    newest version, and its delta is carried over into the next merge. One that is later still is
    dropped: for a device that is slow for good there are shorter clocks (`ssp.DyLU`).

    The delta of a worker that made c tokens in n steps, and is ℓ rounds late, has the weight

    .. math:: w = \frac{c^2}{n} \, 2^{-\ell}

    over the sum of these in the merge. (Where tokens are not counted it is samples, and where
    nothing is computed steps.) The first delta of a worker that joins while the run goes has the
    weight 0, and is not of the quorum: its optimizer warms up in that clock.

    The source exchanges parameters in fragments, and its server says which is next, for all. Here
    that goes by the clocks that a worker has finished, so one that had come late once would bring
    every fragment when the others' has been merged, for good. So fragments are refused.

    Deltas are not read before they are merged, and weights are the policy's: the run's `weight`
    stays as it is by default.

    Args:
        quorum: deltas that make a quorum; where there are fewer workers, all of them.
        gamma: share of the time left that is waited for.
        tau: steps that workers go on for while their deltas are merged.
        sync: what an exchange takes of that time (seconds).
        carry: rounds by which a delta may be late.

    Raises:
        TypeError: if `quorum`, `tau` or `carry` is not an integer, or another not a number.
        ValueError: if `quorum` is less than 1, or another negative or not finite; `train` raises it
            if `quorum` is more than the workers.

    Example:
        >>> Decoupled(quorum=3, gamma=0.8, tau=4).guaranteed_staleness(num_workers=8)
        1

    Reference:
        Douillard, Rush, Donchev et al. 2026, "Decoupled DiLoCo for resilient distributed
        pre-training", arXiv:2604.21428.
    """

    quorum: int = 1
    gamma: float = 0.5
    tau: int = 2
    sync: float = 0.0
    carry: int = 1
    _version: list[int] = remembered(list)  # of the round; empty before the first
    _times: list[float] = remembered(list)  # of its first delta, and of its quorum (seconds)
    _paces: dict[int, float] = remembered(dict)  # by worker: seconds a step in its last clock

    def __post_init__(self) -> None:
        put(self, "quorum", integer, least=1)
        put(self, "gamma", number, least=0)
        put(self, "tau", integer, least=0)
        put(self, "sync", number, least=0)
        put(self, "carry", integer, least=0)

    def check(self, num_workers: int) -> None:
        no_more_than(self, "quorum", num_workers)

    def guaranteed_staleness(self, num_workers: int) -> int:
        return self.carry

    def usual_merge(self, num_workers: int) -> int:
        return num_workers

    @property
    def reads_own(self) -> bool:
        return False

    @property
    def takes_fragments(self) -> bool:
        return False

    def pushed(self, view: View, delta: Delta, norm: float) -> None:
        worker = delta.worker
        self._paces[worker] = view.computing(worker) / view.steps(worker)

    def admit(self, view: View, worker: int) -> bool | Wait:
        waits = any(
            delta.worker == worker and delta.version == view.version for delta in view.buffered
        )
        return Wait(version=view.version + 1) if waits else True

    def ready(self, view: View) -> Decision:
        late = [delta for delta in view.buffered if view.staleness(delta) > self.carry]
        if late:
            return Decision(drop=late, reason=f"more than {self.carry} rounds late")
        if self._version != [view.version]:
            self._version[:], self._times[:] = [view.version], []
        in_time = sum(_counts(view.report(delta)) for delta in view.buffered)
        if in_time and not self._times:
            self._times.append(view.now)
        if in_time < max(1, min(self.quorum, view.num_workers)):
            return NOTHING
        if len(self._times) == 1:
            self._times.append(view.now)
        first, quorum = self._times
        deadline = quorum + self._grace(view, quorum - first)
        if view.now < deadline and view.num_running:
            return Decision(wake=deadline)
        return Decision(merge=tuple(view.buffered))

    def weights(self, view: View, merged: Sequence[Pushed]) -> list[float]:
        kinds = ([getattr(each, name) for each in merged] for name in ("tokens", "samples"))
        counts = next(filter(any, kinds), [each.steps for each in merged])
        shares = [
            0.0 if _warms_up(each) else count * count / each.steps * 0.5**each.staleness
            for count, each in zip(counts, merged, strict=True)
        ]
        total = sum(shares)
        return [share / total for share in shares] if total else shares

    def _grace(self, view: View, waited: float) -> float:
        """How long the others are waited for, once the quorum is there (seconds)."""
        pace = min((self._paces[each] for each in view.workers if each in self._paces), default=0.0)
        return max(0.0, self.gamma * (self.tau * pace - waited - self.sync))


def _warms_up(push: Pushed) -> bool:
    """Whether it is the first clock of a worker that has joined a run that was under way."""
    return push.stay == 0 and push.joined > 0


def _counts(push: Pushed) -> bool:
    """Whether a delta is of the quorum."""
    return push.staleness == 0 and not _warms_up(push)
