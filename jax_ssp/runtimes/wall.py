"""Real time: whatever happens anywhere is put into one inbox, and a timer is waited for."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from jax_ssp.controller.commands import Command, SetTimer
from jax_ssp.controller.events import Event, StopRequested, TimerFired, WorkerJoined
from jax_ssp.runtimes.base import LOOK, Clock, Message
from jax_ssp.runtimes.faults.fates import NO_FATES, Fates
from jax_ssp.runtimes.inbox import next_in
from jax_ssp.runtimes.interrupts import SIGNAL_SECONDS
from jax_ssp.runtimes.members import is_left_out


class WallClock(Clock):
    """The time of the wall.

    Args:
        num_workers: that join when the run begins.
        fates: what happens of itself.

    Attributes:
        stopping: whether an end is requested.
        awaited: how many that are lost are to come again.
        tick: for so long at most it waits for the next event (seconds).
        look: called at each tick, and before each event.
    """

    real = True

    def __init__(self, num_workers: int, fates: Fates = NO_FATES) -> None:
        self.stopping = False
        self.awaited = 0
        self.tick = SIGNAL_SECONDS
        self.look: Callable[[], object] | None = None
        self._fates = fates
        self._faulty = bool(fates)
        self._began = time.perf_counter()
        self._num_workers = num_workers
        self._to_join = set(range(num_workers))
        self._not_before = 0.0  # when whoever is to join may be asked again
        self._timer: float | None = None
        self._passed = 0.0  # the time of what has passed before, like the timer
        # An interrupt may come anywhere in the main thread, and may leave an `Event` or a `Queue`
        # locked for good; not what is written in C.
        self._inbox: queue.SimpleQueue[Message | BaseException] = queue.SimpleQueue()

    @property
    def joining(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self._to_join)

    def now(self) -> float:
        return time.perf_counter() - self._began

    @property
    def awaits(self) -> bool:
        return self.awaited > 0 or self._fates.awaits

    def begin(self) -> None:
        self._began = time.perf_counter()
        self._fates.plays = bool(self._fates)

    def passed(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self._passed = now
        if self._faulty:
            self._fates.take(now, event, commands)
        if isinstance(event, WorkerJoined):
            self._to_join.discard(event.worker)
        elif is_left_out(event) and event.worker < self._num_workers:
            self._to_join.add(event.worker)
        if isinstance(event, TimerFired):
            self._timer = None
        for command in commands:
            if isinstance(command, SetTimer):
                self._timer = command.at

    def go_on(self) -> None:
        self._began = time.perf_counter() - self._passed  # what was between is not counted
        self._fates.plays = bool(self._fates)
        self.set_timer(self._timer)

    def hold_back(self, seconds: float) -> None:
        """Nobody can join just now: who is to is asked again after so long."""
        self._not_before = self.now() + seconds

    def next_event(self) -> Message | None:
        if self.look is not None:
            self.look()
        if self._to_join and self.now() >= self._not_before:
            message = self._next(0)
            return Message(WorkerJoined(min(self._to_join))) if message is LOOK else message
        timer, coming, now = self.timer, self._coming(), self.now()
        left = self.tick if timer is None else min(timer - now, self.tick)
        if coming is not None and coming[0] <= now:
            return Message(coming[1])
        if coming is not None:
            left = min(left, coming[0] - now)
        if self._to_join:
            left = min(left, self._not_before - now)
        return self._next(left) if left > 0 else LOOK

    def _coming(self) -> tuple[float, Event] | None:
        """What comes of itself next, and when; who cannot join yet is asked later."""
        coming = self._fates.coming()
        if coming is not None and type(coming[1]) is WorkerJoined:
            return max(coming[0], self._not_before), coming[1]
        return coming

    def pause(self) -> None:
        """Wait until something comes in, but not for long, and leave it there.

        Raises:
            BaseException: the error of whoever failed.
        """
        message = self._next(SIGNAL_SECONDS)
        if message is not LOOK:
            self._inbox.put(message)

    def check(self) -> None:
        waiting = [self._next(0) for _ in range(self._inbox.qsize())]
        for message in waiting:
            self._inbox.put(message)

    def _next(self, seconds: float) -> Message:
        try:
            got = next_in(self._inbox, seconds)
        except queue.Empty:
            return LOOK
        if isinstance(got, BaseException):
            raise got
        return got

    def post(self, what: Event | Future[Any], metrics: Mapping[str, float] | None = None) -> None:
        self._inbox.put(Message(what, metrics))

    def fail(self, error: BaseException) -> None:
        """Have this raised in who waits for the next event; any thread may call it."""
        self._inbox.put(error)

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if type(event) is WorkerJoined:
            self._to_join.discard(event.worker)
        if self._faulty:
            before = self._fates.coming()
            self._fates.happened(now, event, commands)
            if self._fates.coming() != before:
                self.wake()

    def request_stop(self, reason: str) -> None:
        self.stopping = True
        self.post(StopRequested(reason))

    def set_timer(self, at: float | None) -> None:
        self.timer = at
        self.wake()

    def wake(self) -> None:
        self._inbox.put(LOOK)
