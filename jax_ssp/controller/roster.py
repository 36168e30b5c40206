"""The live workers: who is here, at which clock, and what each of them is doing.

A worker that joins enters at the smallest clock of the live workers; one that was here before, no
lower than where it left. One that leaves stops counting at once.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Collection

from jax_ssp.controller.clocks import ClockVector
from jax_ssp.controller.errors import ProtocolError
from jax_ssp.controller.events import Event, Token
from jax_ssp.controller.waiting import WaitingRoom


class Phase(enum.Enum):
    """What a live worker is doing."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


# The enum's members, without the look-up that each use of them would cost.
WAITING, RUNNING, FINISHED = Phase.WAITING, Phase.RUNNING, Phase.FINISHED


class Member:
    """A live worker. A worker that leaves and comes back is a new one."""

    __slots__ = (
        "bases",
        "buffered",
        "clock",
        "computing",
        "entered",
        "finished",
        "gaps",
        "held_coverage",
        "id",
        "joined",
        "merged",
        "round",
        "started",
        "steps",
        "token",
        "unread",
        "version",
    )

    def __init__(self, worker: int, clock: int, version: int) -> None:
        self.id = worker
        self.entered, self.joined = clock, version  # when it joined
        self.clock = clock  # the clocks it has finished
        self.buffered = 0  # how many of its deltas are
        self.gaps: tuple[int, ...] = ()  # stamps dropped while earlier deltas of it are buffered
        self.finished = False  # whether it gets no more work
        self.version = -1  # the version it holds; none yet
        self.held_coverage = -1  # of that version, when it was adopted
        self.round = 0  # of that version
        # Where there are fragments: of each its base, and how many versions had merged it by then;
        # None if the next clock is to adopt all of them.
        self.bases: list[tuple[int, int]] | None = None
        self.merged: tuple[int, ...] = ()  # how many had merged each, by the version it holds
        self.unread: tuple[int, ...] = ()  # its own deltas that version does not contain
        self.started = 0.0  # when it started the clock that it runs, or ran last
        self.steps = 0  # the local steps of that
        self.computing = 0.0  # for how long its last clock was computed, if anybody asks for that
        self.token: Token | None = None  # of that, while it runs

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        if self.token is not None:
            return RUNNING
        return FINISHED if self.finished else WAITING

    @property
    def settled(self) -> int:
        """The clock up to which its deltas are settled."""
        return self.clock - self.buffered - len(self.gaps)


class Roster:
    """The live workers of a run, and its end: what policies see of them, and runtimes ask.

    Args:
        on_arrival: whether what is finished is settled at once.
        num_clocks: clocks that each worker may start; None for no end by clocks.

    Attributes:
        now: the time of the event that came last (seconds).
        version: merges so far.
        updates: deltas merged so far.
        total_steps: local steps merged so far.
        samples: examples merged so far.
        round: of the newest version (see `StartClock`).
        ended: why nobody starts any more; None as long as that is not so.
    """

    # More attributes than 30 in a dict, as those of `Controller` are, are slow to reach.
    __slots__ = (
        "_clocks",
        "_left_at",
        "_limit",
        "_on_arrival",
        "_running",
        "_settled",
        "_waiting",
        "_workers",
        "ended",
        "now",
        "round",
        "samples",
        "total_steps",
        "updates",
        "version",
    )

    def __init__(self, on_arrival: bool, num_clocks: int | None) -> None:
        self.now = -math.inf
        self.version: int = 0
        self.updates: int = 0
        self.total_steps: int = 0
        self.samples: int = 0
        self.round: int = 0
        self.ended: str | None = None
        self._limit = limit_of(num_clocks)
        self._on_arrival = on_arrival
        self._workers: dict[int, Member] = {}
        self._clocks = ClockVector()
        # Merged on arrival, what is finished is settled: one vector is both, kept at half the cost.
        self._settled = self._clocks if on_arrival else ClockVector()
        self._left_at: dict[int, int] = {}  # clocks of workers that are gone
        self._running: int = 0
        self._waiting = WaitingRoom()

    # What policies see.

    @property
    def coverage(self) -> int:
        return self._settled.min

    @property
    def min_clock(self) -> int:
        return self._clocks.min

    @property
    def num_workers(self) -> int:
        return len(self._workers)

    @property
    def num_running(self) -> int:
        return self._running

    def clock(self, worker: int) -> int:
        return self._workers[worker].clock

    def held_coverage(self, worker: int) -> int:
        return self._workers[worker].held_coverage

    @property
    def workers(self) -> Collection[int]:
        return self._workers.keys()

    def held_version(self, worker: int) -> int:
        return self._workers[worker].version

    def is_running(self, worker: int) -> bool:
        return self._workers[worker].token is not None

    def buffered_of(self, worker: int) -> int:
        return self._workers[worker].buffered

    def started(self, worker: int) -> float:
        return self._workers[worker].started

    def steps(self, worker: int) -> int:
        return self._workers[worker].steps

    def computing(self, worker: int) -> float:
        return self._workers[worker].computing

    # What runtimes ask.

    def phase(self, worker: int) -> Phase:
        """What this live worker is doing; KeyError if it is not live."""
        return self._workers[worker].phase

    def donors(self) -> list[int]:
        """Who may give a worker that joins its state, first the least far of them, by number.

        They have finished a clock since they joined, and go on from it.
        """
        found = [(each.clock, each.id) for each in self._workers.values() if _has_state(each)]
        return [worker for _, worker in sorted(found)]

    # Who comes and goes.

    def _check_join(self, event: Event, worker: int, donor: int | None) -> None:
        if worker in self._workers:
            raise self._illegal(event, "it is here already")
        if donor is not None:
            giver = self._workers.get(donor)
            if giver is None or giver.clock == giver.entered:
                raise self._illegal(event, f"its donor {donor} has finished no clock, or is gone")

    def _join(self, worker: int) -> Member:
        at = max(self._clocks.min, self._left_at.pop(worker, 0))
        record = self._workers[worker] = Member(worker, at, self.version)
        self._clocks.join(at)
        if not self._on_arrival:
            self._settled.join(at)
        return record

    def _leave(self, record: Member) -> None:
        del self._workers[record.id]
        self._left_at[record.id] = record.clock
        self._running -= record.token is not None
        self._clocks.leave(record.clock)
        if not self._on_arrival:
            self._settled.leave(record.settled)
        self._waiting.leave(record.id)

    def _is_live(self, record: Member) -> bool:
        return self._workers.get(record.id) is record

    def _end(self, reason: str) -> None:
        """Nobody starts any more, and who waits is told so, unless it is said already."""
        if self.ended is None:
            self.ended = reason
            self._limit = 0
            self._waiting.wait_no_more()

    def _illegal(self, event: Event, why: str) -> ProtocolError:
        where = f"version {self.version}"
        worker = getattr(event, "worker", None)
        record = None if worker is None else self._workers.get(worker)
        if worker is not None and record is None:
            where += f", worker {worker} not live"
        elif worker is not None and record is not None:
            where += (
                f", worker {worker} {record.phase.value}, clock {record.clock}, "
                f"holding version {record.version}"
            )
        return ProtocolError(f"illegal {event}: {why} ({where}).")


def _has_state(record: Member) -> bool:
    return record.clock > record.entered and record.version >= 0


def limit_of(num_clocks: int | None) -> int:
    """How many clocks a worker may start."""
    return sys.maxsize if num_clocks is None else num_clocks
