"""What a runtime tells the controller: seven events of plain integers, floats and strings.

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
    """A worker is there and asks for work. It enters at the smallest clock of the live workers.

    Attributes:
        worker: who.
        donor: the live worker whose state it takes over, as that was between its last two clocks;
            None if it begins with what the snapshot gives. Deltas that the donor has pushed, and
            its share of the data, remain the donor's.
    """

    worker: int
    donor: int | None = None


class DeltaReady(NamedTuple):
    """A worker has finished a clock; its delta is computed and buffered.

    One whose token is not that of the clock which its worker runs is *late*: it is answered with a
    `Fence`, and changes nothing. `StartClock.finished` makes the one that answers a start.

    Attributes:
        worker: who.
        clock: the clock just finished; the delta is stamped with it.
        version: the version the worker really read, as it reports it itself: the delta's base, but
            where the parameters are in fragments (see `jax_ssp.controller.fragments`).
        token: of the `StartClock` that the clock was computed under.
        steps: local steps that it made.
        samples: examples in its batches; 0 where nothing was computed.
        finite: whether every number of the delta is finite, as computed, before compression.
        norm: the delta's l2 norm, where the policy asks for it (`Policy.needs_norms`); else 0.
        exchange: where exchange takes time (`ssp.Network`), `ahead`, `reading` and `pushing`; else
            empty, for an event costs less so.
        tokens: in its batches, where the step says how to count them; else 0.
    """

    worker: int
    clock: int
    version: int
    token: Token
    steps: int = 1
    samples: int = 0
    finite: bool = True
    norm: float = 0.0
    exchange: tuple[float, ...] = ()
    tokens: int = 0

    @property
    def ahead(self) -> float:
        """For so long it was computed before it was started (seconds)."""
        return self.exchange[0] if self.exchange else 0.0

    @property
    def reading(self) -> float:
        """For so long its worker waited for the snapshot after that, and computed nothing."""
        return self.exchange[1] if self.exchange else 0.0

    @property
    def pushing(self) -> float:
        """For so long the delta travelled: the steps were done so long before this event."""
        return self.exchange[2] if self.exchange else 0.0


new_delta_ready = constructor(DeltaReady)


class WorkerLost(NamedTuple):
    """A worker is gone. It stops counting at once; what it has pushed is still merged.

    Attributes:
        worker: who.
        reason: why, in a few words; empty where nobody knows.
        drops: whether what it has pushed, and what is not settled, is dropped instead.
    """

    worker: int
    reason: str = ""
    drops: bool = False


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


class Resumed(NamedTuple):
    """Another process goes on with the run, after the rows that are on its tape: a term begins.

    Clocks that were running go on under their old tokens; what is granted from now on bears the new
    term. The run has these ends now; one that had ended goes on, if they leave it something to do.
    Who is not there any more is lost, and who is there anew joins, by events of their own.

    Attributes:
        term: how often the run has been resumed, this time included: one more than before.
        num_clocks: clocks that each worker finishes; None for no end by that, like the totals.
        max_updates: deltas merged in total.
        max_steps: local steps merged in total.
        max_samples: examples merged in total.
    """

    term: int
    num_clocks: int | None
    max_updates: int | None
    max_steps: int | None
    max_samples: int | None


Event: TypeAlias = (
    WorkerJoined | DeltaReady | WorkerLost | WorkerDone | TimerFired | StopRequested | Resumed
)
EVENTS: tuple[type[Event], ...] = (
    WorkerJoined,
    DeltaReady,
    WorkerLost,
    WorkerDone,
    TimerFired,
    StopRequested,
    Resumed,
)
