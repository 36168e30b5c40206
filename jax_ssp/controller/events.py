"""What a runtime tells the controller: five events, plain integers and strings.

An event says what has happened; it never carries an array. The payload of a delta stays with the
runtime, keyed by (worker, clock).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class WorkerJoined(NamedTuple):
    """A worker is there and asks for work. It enters at the smallest clock of the live workers."""

    worker: int


class DeltaReady(NamedTuple):
    """A worker has finished a clock; its delta is computed and buffered.

    Attributes:
        worker: who.
        clock: the clock just finished; the delta is stamped with it.
        version: the version the worker really read, as it reports it itself: the delta's base.
        norm: the delta's l2 norm, where the policy asks for it (`Policy.needs_norms`); else 0.
    """

    worker: int
    clock: int
    version: int
    norm: float = 0.0


class WorkerLost(NamedTuple):
    """A worker is gone. It stops counting at once; what it has pushed is still merged."""

    worker: int


class TimerFired(NamedTuple):
    """The time asked for with `SetTimer` has come."""

    at: float


class StopRequested(NamedTuple):
    """Nobody starts another clock; running clocks are finished and their deltas merged."""

    reason: str


Event: TypeAlias = WorkerJoined | DeltaReady | WorkerLost | TimerFired | StopRequested
EVENTS: tuple[type[Event], ...] = (
    WorkerJoined,
    DeltaReady,
    WorkerLost,
    TimerFired,
    StopRequested,
)
