"""A clock of a world in which all happens in any order, and much goes wrong.

What happens next follows from the seed and from the rows that the tape has, so a process that goes
on with a tape goes on as the one before would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from jax_ssp.controller.commands import Cancel, Command, SetTimer, StartClock
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    Resumed,
    StopRequested,
    TimerFired,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.base import Clock, Message
from jax_ssp.runtimes.replay import TapeClock
from jax_ssp.testing.simulation.audit import Audit
from jax_ssp.testing.simulation.dice import Dice
from jax_ssp.testing.simulation.scenario import Scenario
from jax_ssp.testing.simulation.workers import Workers


class Seen:
    """What a tape says of its world: a fold over its rows.

    Attributes:
        rows: how many, but for those that say that the run was resumed.
        term: how often it was.
        now: the time of the last (seconds).
        running: by worker, what it runs.
        here, away: workers.
        gone: clocks that were lost or cancelled, whose pushes may still come.
        pushed: that came last.
        stopping: whether the end was asked for.
    """

    def __init__(self) -> None:
        self.rows = self.term = 0
        self.now = 0.0
        self.timer: float | None = None
        self.running: dict[int, StartClock] = {}
        self.here: list[int] = []
        self.away: list[int] = []
        self.joined = 0
        self.gone: deque[StartClock] = deque(maxlen=4)
        self.pushed: deque[DeltaReady] = deque(maxlen=4)
        self.stopping = False

    def is_late(self, event: DeltaReady | WorkerDone) -> bool:
        """Whether what comes is no longer waited for."""
        start = self.running.get(event.worker)
        return start is None or start.token != event.token

    def take(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """A row of the tape."""
        self.now = now
        if isinstance(event, Resumed):
            self.term, self.stopping = event.term, False
        else:
            self.rows += 1
        if isinstance(event, DeltaReady):
            if not self.is_late(event):
                del self.running[event.worker]
                self.pushed.append(event)
        elif isinstance(event, WorkerLost) or (
            isinstance(event, WorkerDone) and not self.is_late(event)
        ):
            start = self.running.pop(event.worker, None)
            self.here.remove(event.worker)
            self.away.append(event.worker)
            if start is not None and isinstance(event, WorkerLost):
                self.gone.append(start)
        elif isinstance(event, WorkerJoined):
            self.here.append(event.worker)
            if event.worker in self.away:
                self.away.remove(event.worker)
            self.joined = max(self.joined, event.worker + 1)
        elif isinstance(event, TimerFired):
            self.timer = None
        elif isinstance(event, StopRequested):
            self.stopping = True
        for command in commands:
            if isinstance(command, StartClock):
                self.running[command.worker] = command
            elif isinstance(command, Cancel):
                self.gone.append(self.running.pop(command.worker))
            elif isinstance(command, SetTimer):
                self.timer = command.at


class Chaos(Clock):
    """Says what happens next, as chance wants it.

    Args:
        scenario: what may happen.
        workers: compute.
        audit: knows what earlier processes have computed in vain.
        seen: of the rows so far.
        term: how often the run was resumed; it changes what happens, unless all is to be the same.
        before: called before each row; it may raise `Died`.
    """

    def __init__(
        self,
        scenario: Scenario,
        workers: Workers,
        audit: Audit,
        seen: Seen,
        term: int,
        before: Callable[[], None],
    ) -> None:
        self._scenario = scenario
        self._workers = workers
        self._audit = audit
        self._seen = seen
        self._before = before
        self._now = 0.0
        self._dice = Dice(scenario.seed + (0 if scenario.same else term << 40))

    def now(self) -> float:
        return self._now

    def due(self) -> TimerFired | None:
        return None  # it is drawn when the timer fires

    def request_stop(self, reason: str) -> None:
        raise AssertionError(f"nobody asks for the end of a simulated run: {reason}")

    def passed(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self._now = now
        self._seen.take(now, event, commands)
        self.timer = self._seen.timer

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self._seen.take(now, event, commands)

    def next_event(self) -> Message | None:
        self._before()
        dice, seen = self._dice, self._seen
        dice.at(seen.rows)
        self._now = seen.now + dice.one_of((0.0, 0.25, 1.0))
        event = self._rare(dice)
        if event is not None:
            return self._message(event)
        if seen.timer is not None and (not seen.running or dice.hits(25)):
            self._now = max(seen.now, seen.timer)
            return Message(TimerFired(seen.timer))
        if not seen.running:
            return None
        return self._workers.finished(seen.running[dice.one_of(sorted(seen.running))])

    def _rare(self, dice: Dice) -> Event | None:
        """What is not the work itself, if it happens now."""
        seen, scenario = self._seen, self._scenario
        if seen.joined < scenario.workers:
            return WorkerJoined(seen.joined)
        for worker, start in seen.running.items() if scenario.data_ends else ():
            if not self._workers.has_data(worker):
                return WorkerDone(worker, start.clock, start.token)
        if scenario.asked_to_stop and seen.rows >= scenario.rows and not seen.stopping:
            return StopRequested("interrupted")
        if dice.hits(scenario.lost) and seen.rows < scenario.rows:
            worker = dice.one_of(seen.here + seen.away)
            if worker in seen.here:
                return WorkerLost(worker, "by chance", drops=dice.hits(30))
            return self._joins(worker, dice)
        if self._audit.ghosts and not scenario.same and dice.hits(10):
            return dice.one_of(self._audit.ghosts).finished()
        if dice.hits(scenario.late):
            if seen.gone and dice.hits(60):
                start = dice.one_of(seen.gone)
                done = WorkerDone(start.worker, start.clock, start.token)
                return start.finished() if dice.hits(80) else done
            if seen.pushed:
                return dice.one_of(seen.pushed)  # once more
        return None

    def _joins(self, worker: int, dice: Dice) -> WorkerJoined:
        """Somebody joins again, if need be with the state of whoever chance wants to give it."""
        here = self._seen.here
        donor = self._workers.donor(dice.one_of(here) if here else None)
        return WorkerJoined(worker, None if donor is None else donor.worker)

    def _message(self, event: Event) -> Message:
        if isinstance(event, DeltaReady):  # which is late
            self._workers.push_late(event)
            return Message(event, {"loss": -1.0})
        return Message(event)


class Again(TapeClock):
    """Repeats a tape from its first row to its last.

    Args:
        tape: of the run.
        workers: compute.
        seen: of the rows so far.
        before: called before each row.
    """

    def __init__(
        self, tape: Tape, workers: Workers, seen: Seen, before: Callable[[], None]
    ) -> None:
        super().__init__(tape, workers)
        self._seen = seen
        self._before = before

    def next_event(self) -> Message | None:
        self._before()
        return super().next_event()

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        super().answered(now, event, commands)
        self._seen.take(now, event, commands)
