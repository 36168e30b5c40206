"""How a worker's thread runs a clock, what it waits for, and how one begins that comes again."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from typing import Any

from jax_ssp.controller.commands import StartAhead, StartClock
from jax_ssp.controller.events import WorkerDone
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.runtimes.base import Cancelled, Clock
from jax_ssp.runtimes.crew import Job, Listener, Stay
from jax_ssp.runtimes.fated import Fated
from jax_ssp.runtimes.faults.base import FINE, JOIN, PUSH, Fate
from jax_ssp.runtimes.faults.fates import NO_FATES, Fates
from jax_ssp.runtimes.inbox import next_in
from jax_ssp.runtimes.pacing import PacedClock, Pacing
from jax_ssp.runtimes.runtime import Parties
from jax_ssp.worker.outbox import Push
from jax_ssp.worker.successor import successor
from jax_ssp.worker.waits import COMPUTING_SECONDS, QUIET_SECONDS
from jax_ssp.worker.worker import Worker


class Running:
    """Runs the clocks of stays, each in its own thread.

    Args:
        parties: the workers, and the store where they read and push.
        clock: of the world; if it is paced, exchange takes as long as its network has it take.
        delays: a clock takes at least so long; None injects no delay.
        fates: what goes wrong.

    Attributes:
        num_workers: with how many workers the run goes on.
        listener: hears of what comes of it.
        cancelled: clocks that are to end with nothing pushed.
        hurried: whether nothing is waited for any more that is only injected.
        closing: whether the run is over.
        armed: whether all workers keep what they are before each clock that they begin.
        donors: who does in any case, since another is to take that over.
        compiled: what need not be compiled any more, by device, steps and batches; None where
            nobody asks.
    """

    listener: Listener

    def __init__(
        self,
        parties: Parties,
        clock: Clock,
        delays: DelayDraws | None = None,
        fates: Fates = NO_FATES,
    ) -> None:
        assert parties.store is not None  # since something is computed
        self._store = parties.store
        self._workers = parties.workers
        self.num_workers = parties.num_workers
        self._delays = delays
        self._fates = fates or None
        self._pacing = Pacing(clock, self._over) if isinstance(clock, PacedClock) else None
        self._takes_its_time = delays is not None or self._pacing is not None
        self._fated = Fated(self, fates, clock, parties.store)
        self.cancelled = Cancelled()
        self.hurried = self.closing = self.armed = False
        self.donors: set[int] = set()
        self.compiled: set[tuple[Any, ...]] | None = None

    def run(self, stay: Stay, start: StartClock, taken: deque[Job]) -> bool:
        """Run a clock to its end; before waiting for that, dispatch and draw what comes next.

        Gives whether the worker can run another one.

        Args:
            stay: whose clock it is.
            start: which.
            taken: where to put a job that came meanwhile, and is not to be done yet.
        """
        if self.cancelled and self.cancelled.ended(start):  # before it was begun
            self._skip(stay, start)
            return True
        stay.runs, stay.pushes = start, False
        stay.began = began = time.perf_counter()
        stay.doing = start, began, COMPUTING_SECONDS
        worker = stay.worker
        if worker is None and (worker := self._anew(stay, start)) is None:
            return True
        if not worker.has_data():
            self.listener.tell(stay, WorkerDone(stay.index, start.clock, start.token))
            self.cancelled.ended(start)  # if it was, that was late
            return True
        fate = FINE if self._fates is None else self._fates.of(start)
        if self._pacing is not None and not self._read(self._pacing, stay, start, fate):
            return not stay.gone
        if fate is not FINE:
            ended = self._fated.before(stay, worker, start, fate, began)
            if ended is not None:
                return ended
        if self.compiled is not None:
            self._see_compiling(self.compiled, stay, worker, start)
        if not self._begin(stay, worker, start):
            return True
        if stay.began is None:
            stay.doing = start, time.perf_counter(), COMPUTING_SECONDS
        if worker.armed:
            self.listener.begun(stay)
        if not stay.jobs.empty():
            following = stay.jobs.get()
            if isinstance(following, StartAhead):
                worker.go_ahead(following)
                stay.done += 1
            else:
                taken.append(following)  # the end; or, this clock cancelled, the next one
        worker.prefetch(start)
        push = worker.finish()
        if self._takes_its_time or fate is not FINE:
            self.sleep(stay, start, began, fate.seconds)
        stay.doing = None
        if self._fates is not None:
            if not self._fated.push(stay, start, push, fate):
                return False
        elif not self._push(stay, start, push):
            return False
        if self.cancelled and self.cancelled.ended(start):  # so that push was late
            worker.cancel()
        return True

    def _read(self, pacing: Pacing, stay: Stay, start: StartClock, fate: Fate) -> bool:
        """Wait for a clock's version, which takes time; gives whether it is to be begun still."""
        if fate.lost != JOIN and fate.hangs in ("", PUSH):
            pacing.read(stay, start)
        if stay.gone:
            return False
        if self.cancelled.ended(start):
            self._skip(stay, start)
            return False
        return True

    def _push(self, stay: Stay, start: StartClock, push: Push) -> bool:
        """Push a clock's delta; gives whether the worker goes on."""
        arrived = self.travel(stay, start, push)
        if arrived is None:
            return False
        event = arrived.event(start)
        self._store.push(event, arrived.payload, arrived.metrics)
        self.listener.tell(stay, event, arrived.metrics)
        return True

    def _anew(self, stay: Stay, start: StartClock) -> Worker | None:
        """The worker of one that has come again to its first clock; None if that is cancelled."""
        assert stay.feed is not None
        try:
            snapshot = self._store.snapshot(start.version)
        except LookupError:
            if not self.cancelled.ended(start):
                raise
            self._skip(stay, start)
            return None
        self.enters(stay, successor(self._workers[stay.index], stay.feed, snapshot))
        snapshot.release()
        return stay.worker

    def arms(self, worker: int) -> bool:
        """Whether a worker keeps what it is before each clock that it begins."""
        return self.armed or worker in self.donors

    def enters(self, stay: Stay, worker: Worker) -> None:
        """This is the worker of one that has come again, from now on."""
        worker.armed = self.arms(worker.index)
        stay.worker, stay.feed, stay.inherits = worker, None, None
        self._workers[stay.index] = worker

    def _begin(self, stay: Stay, worker: Worker, start: StartClock) -> bool:
        """Begin a clock, unless it is cancelled by now; the version to adopt may then be gone."""
        try:
            adopts = not worker.holds(start.version)
            snapshot = self._store.snapshot(start.version) if adopts else None
        except LookupError:
            if not self.cancelled.ended(start):
                raise
            self._skip(stay, start)
            return False
        worker.begin(start, snapshot)
        return True

    def _see_compiling(
        self, compiled: set[tuple[Any, ...]], stay: Stay, worker: Worker, start: StartClock
    ) -> None:
        """What is compiled for the first time takes as long as it takes."""
        kind = worker.device, start.local_steps, worker.kind
        if kind not in compiled:
            compiled.add(kind)
            stay.compiles()
            stay.began = None

    def _skip(self, stay: Stay, start: StartClock) -> None:
        """Pass over a clock that was not begun."""
        data = stay.worker or stay.feed
        assert data is not None
        data.skip(start.local_steps)
        self.draws(start)

    def draws(self, start: StartClock) -> None:
        """Draw the delay of a clock that is not run here, so that the next one gets its own."""
        if self._delays is not None:
            self._delays.draw(start)

    # For faults, which are played in the same thread.

    def sleep(self, stay: Stay, start: StartClock, began: float, seconds: float) -> None:
        """Wait for the delay of this clock, and so many seconds more.

        But no longer once the clock is cancelled, its worker lost, or the run interrupted or over.
        """
        drawn = 0.0 if self._delays is None else self._delays.draw(start)
        if self._pacing is not None:
            began, drawn = self._pacing.computes(stay, start, drawn)
        if not (drawn or seconds):
            return
        stay.does(f"sleeps the injected delay of clock {start.clock}", QUIET_SECONDS)
        self.wait(stay, began + drawn + seconds, start)

    def travel(self, stay: Stay, start: StartClock, push: Push) -> Push | None:
        """Wait until a delta has arrived, if that takes time; it says then what its ways took.

        None if its worker was lost meanwhile, so that it never arrives.
        """
        stay.pushes = True
        return push if self._pacing is None else self._pacing.push(stay, start, push)

    def wait(self, stay: Stay, until: float, start: StartClock | None = None) -> None:
        """Wait until then (`time.perf_counter`), or as long as `sleep` does.

        Args:
            stay: who waits, and is woken by its `wake`.
            until: seconds.
            start: the clock in which it waits, if any.
        """
        while not (self.hurried or stay.gone):
            left = until - time.perf_counter()
            if left <= 0 or (start is not None and start.token in self.cancelled):
                return
            with contextlib.suppress(queue.Empty):
                next_in(stay.wake, left)

    def _over(self, stay: Stay, start: StartClock) -> bool:
        """Whether nobody waits for this clock of a stay any more."""
        return self.hurried or stay.gone or start.token in self.cancelled

    def hang(self, stay: Stay) -> None:
        """Do nothing until the worker is lost, or the run over."""
        while not (self.closing or stay.gone):
            stay.wake.get()
