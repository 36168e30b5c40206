"""What a runtime tells the controller: six events of plain integers, floats and strings.

An event says what has happened; it never carries an array. The payload of a delta stays with the
runtime, keyed by the delta's token.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from jax_ssp.controller.constructors import constructor


class Token(NamedTuple):
    """Names one `StartClock` of a run; the push of that clock quotes it.

    Worker and clock alone do not: a worker that is lost and comes back starts the same clock again.

    Attributes:
        term: how often the run has been resumed.
        grant: the number of the `StartClock`, counted from 0 over the whole run.
    """

    term: int
    grant: int


class WorkerJoined(NamedTuple):
    """A worker is there and asks for work. It enters at the smallest clock of the live workers."""

    worker: int


class DeltaReady(NamedTuple):
    """A worker has finished a clock; its delta is computed and buffered.

    One whose token is not that of the clock which its worker runs is *late*: it is answered with a
    `Fence`, and changes nothing. `StartClock.finished` makes the one that answers a start.

    Attributes:
        worker: who.
        clock: the clock just finished; the delta is stamped with it.
        version: the version the worker really read, as it reports it itself: the delta's base.
        token: of the `StartClock` that the clock was computed under.
        steps: local steps that it made.
        samples: examples in its batches; 0 where nothing was computed.
        finite: whether every number of the delta is finite, as computed, before compression.
        norm: the delta's l2 norm, where the policy asks for it (`Policy.needs_norms`); else 0.
    """

    worker: int
    clock: int
    version: int
    token: Token
    steps: int = 1
    samples: int = 0
    finite: bool = True
    norm: float = 0.0


new_delta_ready = constructor(DeltaReady)


class WorkerLost(NamedTuple):
    """A worker is gone. It stops counting at once; what it has pushed is still merged."""

    worker: int


class WorkerDone(NamedTuple):
    """A worker was given a clock for which it has no data: its part of the run is done.

    It stops counting at once; what it has pushed is still merged. Like a push it is late if it
    quotes another token than that of the clock which the worker runs.

    Attributes:
        worker: who.
        clock: the clock that it does not run; it has finished so many.
        token: of the `StartClock` of that clock.
    """

    worker: int
    clock: int
    token: Token


class TimerFired(NamedTuple):
    """The time asked for with `SetTimer` has come."""

    at: float


class StopRequested(NamedTuple):
    """Nobody starts another clock; running clocks are finished and their deltas merged."""

    reason: str


Event: TypeAlias = WorkerJoined | DeltaReady | WorkerLost | WorkerDone | TimerFired | StopRequested
EVENTS: tuple[type[Event], ...] = (
    WorkerJoined,
    DeltaReady,
    WorkerLost,
    WorkerDone,
    TimerFired,
    StopRequested,
)
