"""What a policy is: who may start, what is merged, who adopts, how many local steps.

Each is a pure function of the controller's view. A policy is a frozen dataclass. To write one,
subclass `Policy` and override what differs from its defaults; the fields of the dataclass appear in
configs, on the command line and in run folders by themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Delta(NamedTuple):
    """A pushed delta that is neither merged nor dropped yet.

    Attributes:
        worker: who pushed it.
        clock: its stamp, the clock it was computed in.
        version: its base, the version it is measured from.
    """

    worker: int
    clock: int
    version: int


class View(Protocol):
    """What a policy may look at. Counts are of clocks and versions; times are in seconds."""

    @property
    def now(self) -> float:
        """The time of the event being handled (seconds)."""
        ...

    @property
    def version(self) -> int:
        """The server's newest version: merges applied so far."""
        ...

    @property
    def coverage(self) -> int:
        """Of the newest version: every live worker's deltas stamped below this are in it."""
        ...

    @property
    def min_clock(self) -> int:
        """The smallest clock of any live worker."""
        ...

    @property
    def num_workers(self) -> int:
        """Live workers, those that have finished all their clocks included."""
        ...

    @property
    def default_local_steps(self) -> int:
        """The run's `local_steps`."""
        ...

    @property
    def buffered(self) -> Collection[Delta]:
        """Pushed deltas waiting for a decision, in the order in which they came."""
        ...

    def clock(self, worker: int) -> int:
        """Clocks this live worker has finished, so the number of the one that it asks to start.

        With grants ahead a worker may ask while it still runs a clock. To the policy that is asked
        (`admit`, then `local_steps`) that clock counts as finished, though its delta has yet to
        come: it is not in `buffered`, nor in `coverage` and `min_clock`.
        """
        ...

    def held_coverage(self, worker: int) -> int:
        """Coverage of the snapshot this worker holds, when it adopted it."""
        ...


class Wait(NamedTuple):
    """A "no" from `admit` that says when to ask again; it is false as a condition.

    Give one of the two. A plain `False` is asked again after every event, which costs a call for
    each waiting worker; a `Wait` costs nothing until its time has come.

    Attributes:
        coverage: ask again once the newest version covers this many clocks.
        version: ask again once the server has reached this version.
    """

    coverage: int | None = None
    version: int | None = None

    def __bool__(self) -> bool:
        return False


class Decision(NamedTuple):
    """What to do with the buffered deltas now.

    Attributes:
        merge: deltas to apply, in this order, as one new version.
        drop: deltas to forget.
        reason: why they are dropped; needed if there are any.
        wake: ask `ready` again at this time (seconds) if something is buffered then; each decision
            replaces the wake of the one before.
    """

    merge: Sequence[Delta] = ()
    drop: Sequence[Delta] = ()
    reason: str = ""
    wake: float | None = None


NOTHING = Decision()


@dataclass(frozen=True)
class Policy:
    """Base of all policies: admits everybody, merges on arrival, adopts the newest version."""

    @property
    def guaranteed_bound(self) -> int | None:
        """The bound `s` of the contract that this policy keeps (clocks), or None for no bound."""
        return None

    def admit(self, view: View, worker: int) -> bool | Wait:
        """May this worker start its next clock, number `view.clock(worker)`, now?

        With grants ahead a running worker asks as well; a "yes" stands until its delta comes.
        """
        return True

    def ready(self, view: View) -> Decision:
        """Which buffered deltas to merge or drop now. A worker's own go in the order of stamps.

        By default each is merged on arrival; but at bound 0, where nobody may read what is merged
        before the barrier, those of a clock are merged there as one version.
        """
        if self.guaranteed_bound == 0:
            return merge_at_barrier(view)
        return Decision(tuple(view.buffered))

    def adopts(self, view: View, worker: int) -> bool:
        """Does a worker about to start take the newest version (or keep the one it holds)?"""
        return True

    def local_steps(self, view: View, worker: int) -> int:
        """H for the clock about to start (steps)."""
        return view.default_local_steps


def merges_on_arrival(policy: Policy) -> bool:
    """Whether the policy's `ready` is the default, and merges every delta as it comes."""
    return type(policy).ready is Policy.ready and policy.guaranteed_bound != 0


def merge_at_barrier(view: View) -> Decision:
    """Merge once every live worker has pushed; the order is fixed, whoever came first."""
    if view.min_clock > view.coverage:
        return Decision(merge=sorted(view.buffered, key=lambda delta: (delta.clock, delta.worker)))
    return NOTHING


def non_negative(policy: Policy, field: str) -> None:
    """Raise ValueError unless this integer field of a policy is 0 or more."""
    value = getattr(policy, field)
    name = type(policy).__name__
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}({field}=...)` must be an integer, got {value!r}.")
    if value < 0:
        raise ValueError(f"`{name}({field}=...)` must be non-negative, got {value}.")
