"""Plays faults in the threads of workers: what goes wrong in a clock, and with its push."""

from __future__ import annotations

import time
from typing import Protocol

from jax_ssp.controller.commands import StartClock
from jax_ssp.runtimes.base import Cancelled, Clock
from jax_ssp.runtimes.crew import Listener, Stay
from jax_ssp.runtimes.faults.base import JOIN, PUSH, STEP, Fate
from jax_ssp.runtimes.faults.fates import Fates
from jax_ssp.server.store import Store
from jax_ssp.trees import copied
from jax_ssp.worker.outbox import Push
from jax_ssp.worker.worker import Worker

LOOK_SECONDS = 0.01


class Thread(Protocol):
    """What it needs of whoever runs the workers."""

    listener: Listener
    closing: bool
    cancelled: Cancelled

    def sleep(self, stay: Stay, start: StartClock, began: float, seconds: float) -> None:
        """Wait for the delay of this clock, and so many seconds more."""
        ...

    def travel(self, stay: Stay, start: StartClock, push: Push) -> Push | None:
        """Wait until a delta has arrived, if that takes time; None if it never does."""
        ...

    def wait(self, stay: Stay, until: float, start: StartClock | None = None) -> None:
        """Wait until then, or until this clock is cancelled, its worker lost or the run over."""
        ...

    def hang(self, stay: Stay) -> None:
        """Do nothing until the worker is lost, or the run over."""
        ...


class Fated:
    """Plays fates for eager workers.

    Args:
        thread: runs the workers.
        fates: what goes wrong.
        clock: of the world.
        store: where deltas are pushed.
    """

    def __init__(self, thread: Thread, fates: Fates, clock: Clock, store: Store) -> None:
        self._thread = thread
        self._fates = fates
        self._clock = clock
        self._store = store

    def before(
        self, stay: Stay, worker: Worker, start: StartClock, fate: Fate, began: float
    ) -> bool | None:
        """Play what goes wrong before a clock is computed; None if it is to be computed.

        Else it gives whether the worker can run another one.
        """
        self._fates.play(fate.in_step)
        if fate.hangs and fate.hangs != PUSH:
            self._thread.hang(stay)
            return False
        if fate.lost and fate.lost != PUSH:
            if fate.lost != JOIN:
                self._thread.sleep(stay, start, began, fate.seconds)
            if self._thread.cancelled.ended(start):  # so it is not lost in it
                worker.skip(start.local_steps)
                return True
            self._lose(stay, start)
            return False
        if fate.nan:
            worker.spoil(start.clock)
        return None

    def push(self, stay: Stay, start: StartClock, push: Push, before: Fate) -> bool:
        """Push a clock's delta, or what becomes of that; gives whether the worker goes on.

        Args:
            stay: whose.
            start: of the clock.
            push: what it came to.
            before: its fate when it was begun; by now it may have been struck.
        """
        thread, fate = self._thread, self._fates.of(start, self._clock.now())
        fate = fate._replace(hangs=fate.hangs or before.hangs)  # even if the clock is cancelled
        if fate.seconds > before.seconds:
            thread.wait(stay, time.perf_counter() + fate.seconds - before.seconds, start)
        self._fates.play(fate.in_step[len(before.in_step) :])
        if STEP not in (fate.lost, fate.hangs):
            arrived = push if fate.hangs else thread.travel(stay, start, push)
            if arrived is None:
                return False
            push, event = arrived, arrived.event(start)
            copies = [copied(push.payload) for _ in fate.again]
            self._store.push(event, push.payload, push.metrics)
            self._fates.play(fate.in_push)
            if not (fate.lost or fate.hangs):
                thread.listener.tell(stay, event, push.metrics)
                for copy in copies:  # which the clock of the world will report
                    self._store.push(event, copy, push.metrics)
                return True
        if fate.hangs:
            thread.hang(stay)
        else:
            self._lose(stay, start)
        return False

    def _lose(self, stay: Stay, start: StartClock) -> None:
        """Report that the worker is lost, unless it was before the run was taken up again."""
        while not self._fates.plays and self._fates.of(start).lost and not self._thread.closing:
            time.sleep(LOOK_SECONDS)  # the tape will say
        fate = self._fates.of(start)
        if fate.lost:
            self._thread.listener.crashed(stay, fate.back_after is not None)
