"""What a policy is: who may start, what is merged, who adopts, how many local steps.

Each is a function of the controller's view. A policy is a frozen dataclass. To write one, subclass
`Policy` and override what differs from its defaults; the fields of the dataclass appear in configs,
on the command line and in run folders by themselves. What a policy has to remember during a run is
in `remembered` fields, which are no part of the config: every run begins with a copy of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol, Self


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
    def workers(self) -> Collection[int]:
        """The live workers, in the order in which they joined."""
        ...

    @property
    def buffered(self) -> Collection[Delta]:
        """Pushed deltas waiting for a decision, in the order in which they came."""
        ...

    def clock(self, worker: int) -> int:
        """Clocks this live worker has finished, so the number of the one that it asks to start."""
        ...

    def held_coverage(self, worker: int) -> int:
        """Coverage of the snapshot this worker holds, when it adopted it."""
        ...

    def held_version(self, worker: int) -> int:
        """The version this worker holds; -1 before its first clock, and after a cancelled one."""
        ...

    def is_running(self, worker: int) -> bool:
        """Whether this worker runs a clock; if not, it waits or has finished all."""
        ...

    def buffered_of(self, worker: int) -> int:
        """How many of this worker's deltas are buffered."""
        ...

    def started(self, worker: int) -> float:
        """When this worker started the clock that it runs, or else its last one (seconds)."""
        ...

    def steps(self, worker: int) -> int:
        """The local steps of that clock."""
        ...

    def scheduled_steps(self, worker: int) -> int:
        """H for this worker's next clock by the run's `local_steps` (steps)."""
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
        reason: why they are dropped, or clocks cancelled; needed if there are any.
        wake: ask `ready` again at this time (seconds) if something is buffered then; each decision
            replaces the wake of the one before.
        cancel: running workers whose clock is to end now, with nothing pushed, after the merge.
            They may have no delta buffered then, and the policy must say that it `cancels`.
    """

    merge: Sequence[Delta] = ()
    drop: Sequence[Delta] = ()
    reason: str = ""
    wake: float | None = None
    cancel: Sequence[int] = ()


NOTHING = Decision()


@dataclass(frozen=True)
class Policy:
    """Base of all policies: admits everybody, merges on arrival, adopts the newest version."""

    def begin(self) -> Self:
        """The copy of this policy that decides a run, with nothing remembered yet."""
        return begun(self)

    def check(self, num_workers: int) -> None:
        """Raise ValueError, naming the remedy, if so many workers cannot be run by this policy."""

    # What it promises, and what it needs.

    @property
    def guaranteed_bound(self) -> int | None:
        """The bound `s` of the contract that this policy keeps (clocks), or None for no bound."""
        return None

    def guaranteed_staleness(self, num_workers: int) -> int | None:
        """The largest staleness it merges, with so many workers ever (versions), or None."""
        bound = self.guaranteed_bound
        if bound is None or bound == 0:
            return bound
        # While a worker runs clock c on a version that covers c - s, each other one can add the
        # clocks c - s to c + s, and merging on arrival makes a version of each.
        return (num_workers - 1) * (2 * bound + 1)

    @property
    def cancels(self) -> bool:
        """Whether it may cancel running clocks."""
        return False

    @property
    def reads_own(self) -> bool:
        """Whether a worker reads its own deltas while they wait in the buffer (read-my-writes)."""
        return True

    @property
    def waits_for_own(self) -> bool:
        """Whether a worker starts no clock before its own deltas are settled.

        Then `admit` must see to it, as `until_merged` does, and `check_contract` that it did.
        """
        return False

    @property
    def needs_norms(self) -> bool:
        """Whether `pushed` is to be told the norms of the deltas, which cost a pass over each."""
        return False

    def usual_merge(self, num_workers: int) -> int:
        """How many deltas most merges have; the merge of so many is compiled before the start."""
        return num_workers if self.guaranteed_bound == 0 else 1

    # What it decides.

    def pushed(self, view: View, delta: Delta, norm: float) -> None:
        """Hear of a delta as it comes, before anything is decided.

        Its worker's clock is counted already; `started` and `steps` are of the clock just finished.
        `norm` is the delta's l2 norm if the policy `needs_norms`, else 0.
        """

    def admit(self, view: View, worker: int) -> bool | Wait:
        """May this worker start its next clock, number `view.clock(worker)`, now?"""
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
        return view.scheduled_steps(worker)


def remembered(make: Callable[[], Any]) -> Any:
    """A field for what a policy or schedule remembers during a run; `make` gives it, empty."""
    return field(init=False, repr=False, compare=False, metadata={"make": make})


def begun(config: Any) -> Any:
    """A copy of a policy or schedule with nothing remembered yet."""
    copy = replace(config)
    for column in fields(copy):
        if "make" in column.metadata:
            object.__setattr__(copy, column.name, column.metadata["make"]())
    return copy


def merges_on_arrival(policy: Policy) -> bool:
    """Whether the policy's `ready` is the default, and merges every delta as it comes."""
    return type(policy).ready is Policy.ready and policy.guaranteed_bound != 0


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
    return view.coverage >= clock or Wait(coverage=clock)


def merge_first(view: View, count: int) -> Decision:
    """Merge the first `count` deltas as one version once so many are there."""
    buffered = tuple(view.buffered)
    return Decision(merge=buffered[:count]) if len(buffered) >= count else NOTHING


def drop_outdated(view: View) -> Decision | None:
    """Drop the deltas whose base is not the newest version; None if there are none."""
    outdated = [delta for delta in view.buffered if delta.version < view.version]
    reason = "a newer version is there"
    return Decision(drop=outdated, reason=reason) if outdated else None


def until_merged(view: View, worker: int) -> bool | Wait:
    """Let a worker wait until its own deltas are settled; who does so `waits_for_own`."""
    return view.buffered_of(worker) == 0 or Wait(version=view.version + 1)


def no_more_than(policy: Policy, field: str, num_workers: int) -> None:
    """Raise ValueError if a policy's field asks for more deltas than there are workers."""
    value, name = getattr(policy, field), type(policy).__name__
    if value > num_workers:
        raise ValueError(
            f"`{name}({field}={value})` waits for more deltas than {num_workers} workers have at "
            f"one time; make `{field}` at most {num_workers}, or add workers."
        )
