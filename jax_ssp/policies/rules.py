"""Rules that several policies share: when to merge, what to drop, how long to wait."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from jax_ssp.policies.decision import NOTHING, Decision, Wait
from jax_ssp.policies.view import Delta, View


def merge_at_barrier(view: View) -> Decision:
    """Merge once every live worker has pushed; the order is fixed, whoever came first."""
    if view.min_clock > view.coverage:
        return Decision(merge=in_order(view.buffered))
    return NOTHING


def in_order(deltas: Iterable[Delta]) -> list[Delta]:
    """By clock, then by worker: the same order whoever came first."""
    return sorted(deltas, key=lambda delta: (delta.clock, delta.worker))


def running(view: View) -> list[int]:
    """The workers that run a clock."""
    return [worker for worker in view.workers if view.is_running(worker)]


def until_covered(view: View, clock: int) -> bool | Wait:
    """Let a worker wait until the newest version covers this clock."""
    return view.coverage >= clock or Wait(clock)


def merge_first(view: View, count: int) -> Decision:
    """Merge the first `count` deltas as one version once so many are there."""
    if len(view.buffered) < count:
        return NOTHING
    return Decision(merge=tuple(islice(view.buffered, count)))


def drop_outdated(view: View) -> Decision | None:
    """Drop the deltas whose base is not the newest version; None if there are none."""
    outdated = [delta for delta in view.buffered if view.staleness(delta)]
    reason = "a newer version is there"
    return Decision(drop=outdated, reason=reason) if outdated else None


def until_merged(view: View, worker: int) -> bool | Wait:
    """Let a worker wait until its own deltas are settled; who does so `waits_for_own`."""
    return view.buffered_of(worker) == 0 or Wait(version=view.version + 1)
