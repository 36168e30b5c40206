"""The rows of a tape behind a cut: they happen again before a run goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from jax_ssp.controller.commands import Cancel, Command, StartClock
from jax_ssp.controller.events import DeltaReady, Event, Token, WorkerDone, WorkerLost
from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.base import Clock, LazyExecutor, Message
from jax_ssp.runtimes.cut import SpoiledCheckpoint
from jax_ssp.runtimes.interrupts import SIGNAL_SECONDS
from jax_ssp.runtimes.replay import TapeClock

if TYPE_CHECKING:
    from jax_ssp.runtimes.loop import Loop


class Tail(TapeClock):
    """The rows behind a cut, until they are over; the clock that goes on is told of them.

    Args:
        tape: of the run.
        first: the number of the first of these rows.
        executor: gives what comes with them.
        clock: goes on afterwards.
        running: who runs which clock.
    """

    def __init__(
        self,
        tape: Tape,
        first: int,
        executor: Arrivals,
        clock: Clock,
        running: Mapping[int, StartClock],
    ) -> None:
        super().__init__(tape, executor, first)
        self._after = clock
        self._from_cut = first > 0
        self._arrivals = executor
        self._running = dict(running)
        self.real = clock.real

    @property
    def is_over(self) -> bool:
        """Whether the last row has been taken."""
        return not self._left

    @property
    def decides(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self._left  # what the last row leads to is not on the tape; it comes after

    @property
    def has_more(self) -> bool:
        return True

    def request_stop(self, reason: str) -> None:
        self._after.request_stop(reason)

    def post(self, *message: Any) -> None:
        self._after.post(*message)

    def _spoiled(self, event: DeltaReady) -> NoReturn:
        if not event.finite:
            super()._spoiled(event)
        place = "a checkpoint" if self._from_cut else "its first row"
        raise SpoiledCheckpoint(
            f"the delta of worker {event.worker}'s clock {event.clock} was finite before, and is "
            f"not now that the run goes on from {place}."
        )

    def answered(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        super().answered(now, event, commands)
        self._after.passed(now, event, commands)
        if isinstance(event, (DeltaReady, WorkerDone)):
            self._arrivals.decide(event.token)
        elif isinstance(event, WorkerLost) and event.worker in self._running:
            self._arrivals.decide(self._running[event.worker].token)

    def cancelled(self, cancel: Cancel) -> None:
        super().cancelled(cancel)
        self._arrivals.decide(cancel.token)  # once its executor knows


class Arrivals:
    """What comes with events that are on the tape: computed on demand, or waited for.

    Who reports a clock waits until it is known what becomes of it, as it would wait for the loop:
    if it was cancelled, its worker goes on as if it had not run.

    Args:
        loop: that will take what is not on the tape.
        clock: of its world, where failures are reported.
    """

    def __init__(self, loop: Loop, clock: Clock) -> None:
        executor = loop.executor
        self._lazy = executor if isinstance(executor, LazyExecutor) else None
        self._loop = loop
        self._clock = clock
        self._came: dict[Token, Message] = {}
        self._decided: set[Token] = set()
        self._over = False
        self._change = threading.Condition()

    def report(self, event: Event | None, metrics: Mapping[str, float] | None) -> None:
        """An eager executor reports this; any thread may call it."""
        if event is None:
            return
        if isinstance(event, (DeltaReady, WorkerDone)) and self._is_decided(event, metrics):
            return
        self._loop.take(event, metrics)

    def _is_decided(
        self, event: DeltaReady | WorkerDone, metrics: Mapping[str, float] | None
    ) -> bool:
        """Wait for the tape to say what becomes of a clock; false if it does not."""
        token = event.token
        with self._change:
            self._came[token] = Message(event, metrics)
            self._change.notify_all()
            self._change.wait_for(lambda: self._over or token in self._decided)
            late = self._came.pop(token, None) is not None
            decided = token in self._decided
        if decided and late:
            self._loop.discard(token)
        return decided

    def decide(self, token: Token) -> None:
        """It is known what becomes of a clock."""
        if self._lazy is None:
            with self._change:
                self._decided.add(token)
                self._change.notify_all()

    def finished(self, start: StartClock) -> Message:
        """What comes of a clock that was started; its payload is in the store then."""
        if self._lazy is not None:
            return self._lazy.finished(start)
        token = start.token
        with self._change:
            while token not in self._came:
                self._change.wait(SIGNAL_SECONDS)
                self._clock.check()
            return self._came.pop(token)

    def has_data(self, worker: int) -> bool:
        """Whether there is data for a clock that had none; who is eager has said so itself."""
        return self._lazy is not None and self._lazy.has_data(worker)

    def done(self, worker: int) -> None:
        """The clock that this worker was to run has no data, or the worker is lost."""
        if self._lazy is not None:
            self._lazy.done(worker)

    def close(self) -> None:
        """The tape is over: who waits reports to the loop."""
        with self._change:
            self._over = True
            self._change.notify_all()
