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
