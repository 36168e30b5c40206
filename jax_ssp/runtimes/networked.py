"""Virtual time in which exchange takes time too: a clock ends when its delta has arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jax_ssp.controller import Controller
from jax_ssp.controller.commands import Cancel, Command, Merge, SetTimer, StartClock, is_fenced
from jax_ssp.controller.events import DeltaReady, Event, WorkerDone, new_delta_ready
from jax_ssp.controller.tape import Tape
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.runtimes.base import LazyExecutor, Message
from jax_ssp.runtimes.clockwork import VirtualClock
from jax_ssp.runtimes.course import Course, Way
from jax_ssp.runtimes.faults.fates import NO_FATES, Fates
from jax_ssp.runtimes.traffic import Traffic


class NetworkClock(VirtualClock):
    """Time that jumps from one event to the next, with a network between workers and server.

    What happened in a run that is taken up again happens here once more, so that what was under way
    still is, to the last bit.

    Args:
        num_workers, executor, delays, fates: as of a `VirtualClock`.
        traffic: what travels.
    """

    def __init__(
        self,
        num_workers: int,
        executor: LazyExecutor,
        delays: DelayDraws,
        traffic: Traffic,
        fates: Fates = NO_FATES,
    ) -> None:
        super().__init__(num_workers, executor, delays, fates)
        self._course = Course(traffic, delays, fates)

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self._course.take(now, event, commands)
        super().answered(now, event, commands)

    def started(self, start: StartClock) -> None:
        if not self._ends_here(start):
            self._course.start(self._now, start)

    def cancelled(self, cancel: Cancel) -> None:
        pass  # the course has heard of it

    def passed(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self._course.pass_by(now)
        super().passed(now, event, commands)

    def _took(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, DeltaReady) and not is_fenced(commands):
            self._course.pushed(now, event.worker)
        elif isinstance(event, WorkerDone) and not is_fenced(commands):
            self._course.end(now, event.worker, drawn=False)
        self._course.take(now, event, commands)
        for command in commands:
            if isinstance(command, StartClock):
                self._course.start(now, command, drawn=False)

    def go_on(self) -> None:
        self._fates.plays = bool(self._fates)
        for start in self._course.running:
            if start.worker < self._num_workers and self._ends_here(start):
                self._course.end(self._now, start.worker, drawn=False)
        self._course.draw()

    def _next_end(self, until: float) -> float:
        return self._course.next(until)

    def _first_finished(self) -> Message:
        way = self._course.pop()
        self._now = way.arrived
        event, metrics = self._executor.finished(way.start)
        if type(event) is DeltaReady:
            event = event._replace(exchange=way.exchange)
        return Message(event, metrics)

    def run_clockwork(self, controller: Controller, tape: Tape) -> tuple[float, int] | None:
        if self._fates:
            return None
        handle, append, course = controller.handle, tape.append, self._course
        seconds, updates = 0.0, 0
        while self._at_once or not controller.done:
            if self._at_once or self.timer is not None:
                message = self.next_event()
                if message is None:
                    return seconds, updates
                event, now = message.what, self._now
                if event is None:
                    event, self.timer = self.due(), None
            elif course.next(math.inf) == math.inf:
                return seconds, updates
            else:
                way = course.pop()
                self._now = now = way.arrived
                event = _pushed(way)
            commands = handle(event, now)
            append(now, event, commands)
            course.take(now, event, commands)
            for command in commands:
                if type(command) is StartClock:
                    course.start(now, command)
                elif type(command) is Merge:
                    seconds = now
                    updates += len(command.deltas)
                elif type(command) is SetTimer:
                    self.timer = command.at
        tape.complete = True
        return seconds, updates


def _pushed(way: Way) -> DeltaReady:
    """What is reported of a clock of which nothing is computed."""
    start = way.start
    clock = start.worker, start.clock, start.version, start.token, start.local_steps
    return new_delta_ready(*clock, exchange=way.exchange)
