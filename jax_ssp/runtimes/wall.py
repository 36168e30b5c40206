"""Real time: whatever happens anywhere is put into one inbox, and a timer is waited for."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from jax_ssp.controller.events import Event, StopRequested, WorkerJoined
from jax_ssp.runtimes.base import LOOK, Clock, Message
from jax_ssp.runtimes.interrupts import SIGNAL_SECONDS


class WallClock(Clock):
    """The time of the wall.

    Args:
        num_workers: that join when the run begins.

    Attributes:
        stopping: whether an end is requested.
    """

    real = True

    def __init__(self, num_workers: int) -> None:
        self.joining = num_workers
        self.stopping = False
        self._began = time.perf_counter()
        # An interrupt may come anywhere in the main thread, and may leave an `Event` or a `Queue`
        # locked for good; not what is written in C.
        self._inbox: queue.SimpleQueue[Message | BaseException] = queue.SimpleQueue()

    def now(self) -> float:
        return time.perf_counter() - self._began

    def begin(self) -> None:
        self._began = time.perf_counter()
        for worker in range(self.joining):
            self.post(WorkerJoined(worker))

    def next_event(self) -> Message | None:
        timer = self.timer
        left = SIGNAL_SECONDS if timer is None else min(timer - self.now(), SIGNAL_SECONDS)
        message = self._next(left) if left > 0 else LOOK
        self.joining -= type(message.what) is WorkerJoined
        return message

    def pause(self) -> None:
        """Wait until something comes in, but not for long, and leave it there.

        Raises:
            BaseException: the error of whoever failed.
        """
        message = self._next(SIGNAL_SECONDS)
        if message is not LOOK:
            self._inbox.put(message)

    def _next(self, seconds: float) -> Message:
        try:
            got = self._inbox.get(timeout=seconds)
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

    def request_stop(self, reason: str) -> None:
        self.stopping = True
        self.post(StopRequested(reason))

    def set_timer(self, at: float | None) -> None:
        self.timer = at
        self.wake()

    def wake(self) -> None:
        self._inbox.put(LOOK)
