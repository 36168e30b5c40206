"""What a policy may look at: the counts of a run, and the deltas that wait for a decision."""

from __future__ import annotations

from collections.abc import Collection
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


class Pushed(NamedTuple):
    """What is known of a pushed delta.

    Attributes:
        worker: who pushed it.
        clock: its stamp.
        version: its base.
        staleness: as `View.staleness` gives it (versions).
        steps: local steps that were made.
        samples: examples in their batches; 0 where nothing is computed.
        tokens: in these, where the step says how to count them; else 0.
        stay: clocks that the worker had finished before this one, since it joined.
        joined: the newest version when it joined; 0 for who was there at the start.
    """

    worker: int
    clock: int
    version: int
    staleness: int
    steps: int
    samples: int
    tokens: int
    stay: int
    joined: int


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
    def num_running(self) -> int:
        """Workers that run a clock."""
        ...

    @property
    def workers(self) -> Collection[int]:
        """The live workers, in the order in which they joined."""
        ...

    @property
    def buffered(self) -> Collection[Delta]:
        """Pushed deltas waiting for a decision, in the order in which they came."""
        ...

    def staleness(self, delta: Delta) -> int:
        """What the staleness of a buffered delta would be if it were merged now (versions).

        The versions since its base; where the parameters are in fragments, those that merged its
        fragment.
        """
        ...

    def report(self, delta: Delta) -> Pushed:
        """What is known of a buffered delta."""
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

    def computing(self, worker: int) -> float:
        """For how long the clock that this worker pushed last was computed (seconds).

        From its start to its push, where exchange takes no time. With `ssp.Network` it is without
        what travelled, and with the steps that were run ahead. Only in `pushed`.
        """
        ...

    def scheduled_steps(self, worker: int) -> int:
        """H for this worker's next clock by the run's `local_steps` (steps)."""
        ...
