"""A clock of virtual time: what happens when follows from a delay model alone."""

from __future__ import annotations

import heapq
from collections import deque

from jax_ssp.controller import Controller
from jax_ssp.controller.commands import Cancel, Merge, SetTimer, StartClock
from jax_ssp.controller.events import (
    Event,
    StopRequested,
    WorkerDone,
    WorkerJoined,
    new_delta_ready,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.runtimes.base import LOOK, Cancelled, Clock, LazyExecutor, Message
from jax_ssp.runtimes.faults import NO_FAULTS, Fates, fate_of


class VirtualClock(Clock):
    """Time that jumps from one event to the next.

    Args:
        num_workers: that join at time 0.
        executor: computes the clocks, when they end.
        delays: how long they take.
        fates: which clocks take longer, and which are never finished.
    """

    def __init__(
        self,
        num_workers: int,
        executor: LazyExecutor,
        delays: DelayDraws,
        fates: Fates = NO_FAULTS,
    ) -> None:
        self._executor = executor
        self._delays = delays
        self._fates = fates
        self._hung: set[int] = set()  # who does nothing any more
        self._now = 0.0
        self._at_once: deque[Event] = deque(WorkerJoined(worker) for worker in range(num_workers))
        # Finishing clocks: (when, tie-breaker: who started first, start).
        self._finishing: list[tuple[float, int, StartClock]] = []
        self._cancelled = Cancelled()  # of those among these
        self._count = 0

    def now(self) -> float:
        return self._now

    def started(self, start: StartClock) -> None:
        if not self._executor.has_data(start.worker):
            self._executor.done(start.worker)
            self._at_once.append(WorkerDone(start.worker, start.clock, start.token))
            return
        self._count += 1
        finish = self._now + self._delays.draw(start)
        if self._fates:
            fate = fate_of(self._fates, start)
            if fate.hangs:
                self._hung.add(start.worker)
            if start.worker in self._hung:
                return
            finish += fate.seconds
        heapq.heappush(self._finishing, (finish, self._count, start))

    def cancelled(self, cancel: Cancel) -> None:
        self._cancelled.add(cancel.token)

    def request_stop(self, reason: str) -> None:
        self._at_once.appendleft(StopRequested(reason))

    def next_event(self) -> Message | None:
        if self._at_once:
            return Message(self._at_once.popleft())
        while self._cancelled and self._finishing and self._cancelled.ended(self._finishing[0][2]):
            heapq.heappop(self._finishing)
        timer = self.timer
        if timer is not None and not (self._finishing and self._finishing[0][0] <= timer):
            self._now = max(self._now, timer)
            return LOOK
        if not self._finishing:
            return None
        self._now, _, start = heapq.heappop(self._finishing)
        return self._executor.finished(start)

    def run_clockwork(self, controller: Controller, tape: Tape) -> tuple[float, int] | None:
        if self._fates:
            return None
        # What `Loop` and `next_event` do, without all that is only for payloads and observers.
        handle, append, draw = controller.handle, tape.append, self._delays.draw
        heappush, heappop = heapq.heappush, heapq.heappop
        finishing, count = self._finishing, self._count
        pushed = new_delta_ready  # what `start.finished()` gives, at two thirds of its cost
        seconds, updates = 0.0, 0
        while finishing or self._at_once or not controller.done:
            if self._at_once or self.timer is not None or not finishing:
                message = self.next_event()
                if message is None:
                    return seconds, updates
                event, now = message.what, self._now
                if event is None:
                    event, self.timer = self.due(), None
            else:
                now, _, start = heappop(finishing)
                if self._cancelled and self._cancelled.ended(start):
                    continue
                self._now = now
                worker, clock = start.worker, start.clock
                event = pushed(worker, clock, start.version, start.token, start.local_steps)
            commands = handle(event, now)
            append(now, event, commands)
            for command in commands:
                kind = type(command)
                if kind is StartClock:
                    count += 1
                    heappush(finishing, (now + draw(command), count, command))
                elif kind is Merge:
                    seconds = now
                    updates += len(command.deltas)
                elif kind is SetTimer:
                    self.timer = command.at
                elif kind is Cancel:
                    self._cancelled.add(command.token)
        tape.complete = True
        return seconds, updates
