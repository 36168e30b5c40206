"""What a world is: a clock times an executor.

A *clock* says what time it is and what happens next: real time, virtual time, a tape. An *executor*
lets workers run their clocks: in threads, one after the other, in other processes. The loop
(`loop.py`) stands between the two and the controller. Whichever clock it is, an executor of one of
two kinds goes with it: an *eager* one begins a clock as soon as it is told to, and reports when it
is finished; a *lazy* one computes a clock when it is asked what came of it, so that a schedule can
say when clocks end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from jax_ssp.controller.commands import Cancel, Command, StartAhead, StartClock
from jax_ssp.controller.events import Event, TimerFired, Token, WorkerJoined
from jax_ssp.runtimes.faults.fates import NO_FATES, Fates
from jax_ssp.worker.waits import Waiting

if TYPE_CHECKING:
    from jax_ssp.controller import Controller
    from jax_ssp.controller.tape import Tape
    from jax_ssp.worker.kept import Kept


class Message(NamedTuple):
    """What happened: an event, or an evaluation is finished.

    Attributes:
        what: None says that some time has passed, so that the timer may be due.
        metrics: of the clock, with a `DeltaReady` (whose payload is in the store by then); None
            where nothing is computed.
    """

    what: Event | Future[Any] | None
    metrics: Mapping[str, float] | None = None


LOOK = Message(None)


class Donor(NamedTuple):
    """Who gives its state to a worker that joins, as things stand then.

    Attributes:
        worker: who.
        running: the clock that it runs; None between two.
        waiting: stamps of its own deltas that wait at the server.
        weight: the factor of one of them, if it were merged alone.
    """

    worker: int
    running: StartClock | None
    waiting: tuple[int, ...] = ()
    weight: float = 1.0


Report: TypeAlias = "Callable[[Event, Mapping[str, float] | None], None]"
ReportAll: TypeAlias = "Callable[[Callable[[], Iterable[Event]]], None]"


class Clock(ABC):
    """Says what time it is, and what happens next.

    Attributes:
        timer: when `TimerFired` is due (seconds); None if it is not set.
        joining: how many workers have not joined yet, where others might report before they have.
        real: whether time passes while this thread computes: then evaluation runs beside it.
        decides: whether a reached target or a divergence ends the run, or a tape says where it
            ends.
    """

    timer: float | None = None
    joining: int = 0
    real: bool = False
    decides: bool = True

    @abstractmethod
    def now(self) -> float:
        """The time (seconds since the run began)."""

    @abstractmethod
    def next_event(self) -> Message | None:
        """The next thing that happens; None if nothing can happen any more."""

    @abstractmethod
    def request_stop(self, reason: str) -> None:
        """Have `StopRequested(reason)` reported; a signal handler may call this."""

    @property
    def has_more(self) -> bool:
        """Whether more is sure to come, even if the controller is done with all that came."""
        return False

    @property
    def awaits(self) -> bool:
        """Whether somebody who is lost is to come again: a run with nobody there waits for them."""
        return False

    def begin(self) -> None:
        """The run begins now: have the workers join."""

    def passed(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """This happened before the run was taken up again, and was answered with these commands."""
        raise NotImplementedError(f"a {type(self).__name__} does not take up a run.")

    def go_on(self) -> None:
        """All that happened before has been told; from here on the run goes on."""

    def set_timer(self, at: float | None) -> None:
        """Have the timer due then, instead of when it was due before."""
        self.timer = at

    def due(self) -> TimerFired | None:
        """The `TimerFired` that is due now, if any; asked under the loop's lock, so none is old."""
        at = self.timer
        return None if at is None or at > self.now() else TimerFired(at)

    def started(self, start: StartClock) -> None:
        """A worker runs this clock from now on."""

    def cancelled(self, cancel: Cancel) -> None:
        """This clock will not finish."""

    def post(self, what: Event | Future[Any], metrics: Mapping[str, float] | None = None) -> None:
        """Have this reported next; any thread may call it, of a clock that is `real`."""
        raise NotImplementedError(f"nobody reports to a {type(self).__name__}.")

    def check(self) -> None:
        """Raise what somebody has failed with, if the clock is where that is reported."""

    def wake(self) -> None:
        """If somebody waits in `next_event`, have it return."""

    def run_clockwork(self, controller: Controller, tape: Tape) -> tuple[float, int] | None:
        """Run a whole run of which nothing is computed and nobody watches; None if it cannot.

        Gives the time of the last merge (seconds) and how many deltas were merged.
        """
        return None

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """What the controller answered to the event reported last, before it is carried out."""

    def came_to(self, params: str) -> None:
        """The run is complete, and this is the fingerprint of its last parameters."""


class Cancelled(set[Token]):
    """Clocks that were cancelled, until they have come to their end."""

    def ended(self, start: StartClock) -> bool:
        """Whether this clock was cancelled; asked once, where it has come to its end."""
        if start.token not in self:
            return False
        self.remove(start.token)
        return True


class Executor(ABC):
    """Lets workers run their clocks.

    Attributes:
        report: where one that is eager reports an event as it happens, in any thread.
        report_all: where any thread gives a function that says under the loop's lock what happens,
            while nothing else can; None while a tape says all that does.
        taken: says of a worker how many batches are behind it: those of clocks that it has pushed,
            and of those that were cancelled.
        excused: whether the run does something just now that may hold all workers up.
        donor: who gives its state to a worker that joins now; the one that is asked for, if that
            still can; None if nobody does. The loop sets all of these before the first clock.
    """

    report: Report
    report_all: ReportAll | None
    taken: Callable[[int], int]
    excused: Callable[[], bool]
    donor: Callable[[int | None], Donor | None]

    @abstractmethod
    def start(self, start: StartClock) -> None:
        """Let a worker run a clock, on the version that the store has leased for it."""

    def start_ahead(self, grant: StartAhead) -> None:
        """Let a worker go on with this clock once the one it runs is finished."""

    def cancel(self, cancel: Cancel) -> None:
        """End a clock that runs, with nothing pushed."""
        raise NotImplementedError(f"a {type(self).__name__} cannot cancel clocks.")

    def stop(self, worker: int) -> None:
        """This worker gets no more work."""

    def lost(self, worker: int) -> None:
        """This worker is lost, or its data has ended: what it still does is of no interest.

        If it joins again, nothing is left of what it was.
        """

    def joins(self, worker: int) -> WorkerJoined | None:
        """How this worker joins now; None if its donor is not ready yet: then it is asked again."""
        donor = self.donor(None)
        return WorkerJoined(worker, None if donor is None else donor.worker)

    def joined(self, worker: int, donor: Donor | None = None) -> None:
        """This worker has joined, and may have been lost before.

        Args:
            worker: who.
            donor: whose state it takes over, as that is between the last clock and the one that
                runs; None if it begins with what its first snapshot gives.
        """

    def passed(self, start: StartClock) -> None:
        """This clock has come to its end before the run was broken off, and is not run again."""

    def left_out(self) -> Collection[int]:
        """Who was there when a run was broken off, and has no place now that it goes on."""
        return ()

    def go_on(self, there: Sequence[int], lost: Sequence[int], times: Mapping[int, int]) -> None:
        """A run that was broken off goes on: who is there, who comes again, and how often each was
        lost before, if it was."""

    def prepare(self) -> None:
        """Get ready for the first clock; called once. It returns early if a stop is requested."""

    def invite(self) -> None:
        """All who begin are there: others may join."""

    def waits(self) -> list[Waiting]:
        """What workers are doing that others may wait for; called by another thread."""
        return []

    def settle(self, seconds: float) -> None:
        """The run is over: wait until the workers are at rest, but for so many seconds at most."""

    def arm(self, on: bool) -> None:
        """Have workers keep what they are before each clock that they begin, or no longer."""

    def kept(self, running: Mapping[int, StartClock]) -> list[Kept | None] | None:
        """What each worker was before the clock that it runs; None if that is not known now.

        Of one that was lost, and has begun no clock since, there is nothing: it is None.

        Args:
            running: who runs which clock.
        """
        raise NotImplementedError(f"a {type(self).__name__} keeps nothing.")

    def interrupted(self) -> None:
        """The run is interrupted: injected delays are cut short."""

    def close(self) -> None:
        """Let go of threads; one that is stuck in the user's code is left behind."""


class LazyExecutor(Executor):
    """Computes a clock when it is asked for what came of it."""

    @abstractmethod
    def has_data(self, worker: int) -> bool:
        """Whether there is data for the clock that this worker is to run."""

    @abstractmethod
    def finished(self, start: StartClock) -> Message:
        """What comes of a clock that was started; its payload is in the store then."""

    def done(self, worker: int) -> None:
        """The clock that this worker was to run has no data."""


@dataclass(frozen=True)
class World:
    """Where a run takes place.

    Attributes:
        clock: what happens when.
        executor: who computes.
        fates: what goes wrong.
    """

    clock: Clock
    executor: Executor
    fates: Fates = NO_FATES

    def prepare(self, goes_on: bool = False) -> None:
        """Get ready, then let time begin; or not yet, where a run `goes_on`."""
        self.executor.prepare()
        if not goes_on:
            self.clock.begin()

    def close(self) -> None:
        """Let go of all it holds."""
        self.executor.close()
