"""A clock of virtual time: what happens when follows from a delay model alone."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence

from jax_ssp.controller import Controller
from jax_ssp.controller.commands import Cancel, Command, Merge, SetTimer, StartClock
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    TimerFired,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
    new_delta_ready,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.runtimes.base import LOOK, Cancelled, Clock, LazyExecutor, Message
from jax_ssp.runtimes.faults.base import JOIN
from jax_ssp.runtimes.faults.fates import NO_FATES, Fates
from jax_ssp.runtimes.members import is_left_out
from jax_ssp.runtimes.timetable import Timetable


class VirtualClock(Clock):
    """Time that jumps from one event to the next.

    Args:
        num_workers: that join at time 0.
        executor: computes the clocks, when they end.
        delays: how long they take.
        fates: which clocks take longer, which are never finished, and what else happens.
    """

    def __init__(
        self,
        num_workers: int,
        executor: LazyExecutor,
        delays: DelayDraws,
        fates: Fates = NO_FATES,
    ) -> None:
        self._executor = executor
        self._delays = delays
        self._fates = fates
        self._now = 0.0
        self._num_workers = num_workers
        self._at_once: deque[Event] = deque(WorkerJoined(worker) for worker in range(num_workers))
        self._finishing = Timetable()
        self._cancelled = Cancelled()  # of those among these
        self._count = 0
        self._passed: dict[int, tuple[float, int, StartClock]] = {}  # running, in what has passed

    def now(self) -> float:
        return self._now

    @property
    def awaits(self) -> bool:
        return self._fates.awaits

    def started(self, start: StartClock) -> None:
        if self._ends_here(start):
            return
        finish = self._finish(self._now, start)
        if finish is not None:
            self._finishing.add(finish, start)

    def _ends_here(self, start: StartClock) -> bool:
        """Whether there is no data for this clock: then that is what happens next."""
        if self._executor.has_data(start.worker):
            return False
        self._executor.done(start.worker)
        self._at_once.append(WorkerDone(start.worker, start.clock, start.token))
        return True

    def _finish(self, now: float, start: StartClock) -> float | None:
        """When a clock finishes that was started now; None if never. It is asked once."""
        finish = now + self._delays.draw(start)
        if not self._fates:
            return finish
        fate, ends = self._fates.of(start), -1.0
        while ends < finish + fate.seconds:  # what strikes it may have it take longer
            ends = finish + fate.seconds
            fate = self._fates.of(start, ends)
        if fate.hangs:
            return None
        return now if fate.lost == JOIN else ends

    def passed(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self._now = now
        if self._fates:
            self._fates.take(now, event, commands)
        if isinstance(event, WorkerJoined) and (joins := event._replace(donor=None)) in (
            self._at_once
        ):
            self._at_once.remove(joins)
        elif is_left_out(event) and event.worker < self._num_workers:
            self._at_once.append(WorkerJoined(event.worker))
        if isinstance(event, TimerFired):
            self.timer = None
        for command in commands:
            if isinstance(command, SetTimer):
                self.timer = command.at
        self._took(now, event, commands)

    def _took(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """Which clocks have begun and ended in what has passed."""
        if isinstance(event, (DeltaReady, WorkerDone, WorkerLost)):
            begun = self._passed.get(event.worker)
            if begun is not None and getattr(event, "token", begun[2].token) == begun[2].token:
                self._has_passed(event.worker, drawn=not isinstance(event, WorkerDone))
        for command in commands:
            if isinstance(command, StartClock):
                self._count += 1
                self._passed[command.worker] = now, self._count, command
            elif isinstance(command, Cancel):
                self._has_passed(command.worker, drawn=True)

    def _has_passed(self, worker: int, drawn: bool) -> None:
        """The clock of this worker has ended; its delay was drawn when it was started."""
        _, _, start = self._passed.pop(worker)
        if drawn:
            self._delays.draw(start)

    def begin(self) -> None:
        self._fates.plays = bool(self._fates)

    def go_on(self) -> None:
        self._fates.plays = bool(self._fates)
        for now, _, start in sorted(self._passed.values()):
            if start.worker >= self._num_workers:  # it is lost from here on
                continue
            if not self._ends_here(start) and (finish := self._finish(now, start)) is not None:
                self._finishing.add(finish, start)
        self._passed.clear()

    def cancelled(self, cancel: Cancel) -> None:
        self._cancelled.add(cancel.token)

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, WorkerLost):  # what it runs comes to no end
            self._finishing.keep(lambda start: start.worker != event.worker)
        if self._fates:
            self._fates.happened(now, event, commands)

    def request_stop(self, reason: str) -> None:
        self._at_once.appendleft(StopRequested(reason))

    def next_event(self) -> Message | None:
        if self._at_once:
            return Message(self._at_once.popleft())
        timer, coming = self.timer, self._fates.coming()
        until = math.inf if timer is None else timer
        ends = self._next_end(until if coming is None else min(until, coming[0]))
        if coming is not None and coming[0] <= min(ends, until):
            self._now = max(self._now, coming[0])
            return Message(coming[1])
        if timer is not None and not ends <= timer:
            self._now = max(self._now, timer)
            return LOOK
        return None if ends == math.inf else self._first_finished()

    def _next_end(self, until: float) -> float:
        """When the first clock ends (seconds); infinity if none does, or only later than that."""
        finishing = self._finishing
        while self._cancelled and finishing.times and self._cancelled.ended(finishing.first):
            finishing.pop()
        return finishing.next

    def _first_finished(self) -> Message:
        """The first clock has ended."""
        self._now, start = self._finishing.pop()
        return self._executor.finished(start)

    def run_clockwork(self, controller: Controller, tape: Tape) -> tuple[float, int] | None:
        if self._fates:
            return None
        # What `Loop` and `next_event` do, without all that is only for payloads and observers.
        handle, append, draw = controller.handle, tape.append, self._delays.draw
        at_once, finishing = self._at_once, self._finishing
        times, ends = finishing.times, finishing.ends
        heappush, heappop = heapq.heappush, heapq.heappop
        pushed = new_delta_ready  # what `start.finished()` gives, at two thirds of its cost
        seconds, updates = 0.0, 0
        while times or at_once or not controller.done:
            if at_once or self.timer is not None or not times:
                message = self.next_event()
                if message is None:
                    return seconds, updates
                event, now = message.what, self._now
                if event is None:
                    event, self.timer = self.due(), None
            else:
                now = times[0]
                start = ends[now]
                if type(start) is StartClock:  # alone: `Timetable.pop`, without the call
                    del ends[now]
                    heappop(times)
                else:
                    now, start = finishing.pop()
                if self._cancelled and self._cancelled.ended(start):
                    continue
                self._now = now
                worker, clock, steps, version = start[:4]  # quicker than by name
                event = pushed(worker, clock, version, start.token, steps)
            commands = handle(event, now)
            append(now, event, commands)
            for command in commands:
                kind = type(command)
                if kind is StartClock:
                    ending = now + draw(command)
                    if ends.setdefault(ending, command) is command:  # alone, again
                        heappush(times, ending)
                    else:
                        finishing.add(ending, command)
                elif kind is Merge:
                    seconds = now
                    updates += len(command.deltas)
                elif kind is SetTimer:
                    self.timer = command.at
                elif kind is Cancel:
                    self._cancelled.add(command.token)
        tape.complete = True
        return seconds, updates
