"""One host thread a worker, each with a queue of what to do; all compute at the same time."""

from __future__ import annotations

import atexit
import contextlib
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from jax_ssp.controller.commands import Cancel, StartAhead, StartClock
from jax_ssp.controller.events import WorkerDone, WorkerLost
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.failures import note
from jax_ssp.runtimes.base import Cancelled, Executor
from jax_ssp.runtimes.faults import FINE, NO_FAULTS, Fate, Fates, fate_of
from jax_ssp.runtimes.settings import Settings
from jax_ssp.runtimes.wall import WallClock
from jax_ssp.server.store import Store
from jax_ssp.worker.waits import COMPUTING_SECONDS, QUIET_SECONDS, Waiting
from jax_ssp.worker.worker import Worker

CLOSE_SECONDS = 2.0  # for threads to end; they do at once unless the user's code holds them

_Job: TypeAlias = StartClock | StartAhead | None


class _Doing(NamedTuple):
    """What a worker is doing that others may wait for, since when, and how long it may take."""

    what: str
    since: float
    limit: float


class Threads(Executor):
    """Runs each worker in a thread of its own, under the settings of the thread that makes this.

    Args:
        workers: by number.
        store: where they read and push.
        clock: of the same world; failures go there.
        delays: a clock takes at least so long; None injects no delay.
        fates: what goes wrong.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        store: Store,
        clock: WallClock,
        delays: DelayDraws | None = None,
        fates: Fates = NO_FAULTS,
    ) -> None:
        self._workers = workers
        self._store = store
        self._clock = clock
        self._delays = delays
        self._fates = fates
        self._queues: list[queue.SimpleQueue[_Job]] = [queue.SimpleQueue() for _ in workers]
        # To look whether still to wait.
        self._wakes: list[queue.SimpleQueue[None]] = [queue.SimpleQueue() for _ in workers]
        self._cancelled = Cancelled()
        self._compiled: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each worker
        self._closing = False
        self._interrupted = False
        self._doing: list[_Doing | None] = [None] * len(workers)
        # What is alike is compiled once, by the first who needs it; all that differ at one time.
        first = {(worker.device, worker.kind): worker for worker in reversed(workers)}
        self._compiling = set(first.values())
        settings = Settings()
        self._threads = [
            threading.Thread(
                target=settings.run,
                args=(self._work, worker),
                name=f"ssp-worker-{worker.index}",
                daemon=True,
            )
            for worker in workers
        ]

    def prepare(self) -> None:
        """Have the workers compile, all at one time."""
        for thread in self._threads:
            thread.start()
        while self._compiled.qsize() < len(self._workers) and not self._clock.stopping:
            self._clock.pause()

    def start(self, start: StartClock) -> None:
        self._queues[start.worker].put(start)

    def start_ahead(self, grant: StartAhead) -> None:
        self._queues[grant.worker].put(grant)

    def cancel(self, cancel: Cancel) -> None:
        self._cancelled.add(cancel.token)
        self._wakes[cancel.worker].put(None)

    def stop(self, worker: int) -> None:
        self._queues[worker].put(None)

    def waits(self) -> list[Waiting]:
        now = time.monotonic()
        found: list[Waiting] = []
        for worker, doing in zip(self._workers, self._doing, strict=True):
            for_data = worker.waits()
            if for_data is not None:
                found.append(for_data)
            elif doing is not None:
                found.append(Waiting(worker.index, doing.what, now - doing.since, doing.limit))
        return found

    def interrupted(self) -> None:
        self._interrupted = True
        for wake in self._wakes:
            wake.put(None)

    def close(self) -> None:
        self._closing = True
        for jobs, wake in zip(self._queues, self._wakes, strict=True):
            jobs.put(None)
            wake.put(None)
        deadline = time.monotonic() + CLOSE_SECONDS
        for index, thread in enumerate(self._threads):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
                doing = self._doing[index]
                if thread.is_alive() and doing is not None and doing.what == "compiles":
                    atexit.register(thread.join)  # the interpreter's end would crash in it

    def _does(self, worker: int, what: str, limit: float) -> None:
        self._doing[worker] = _Doing(what, time.monotonic(), limit)

    def _work(self, worker: Worker) -> None:
        """What a worker's thread does: compile, then whatever its queue says."""
        index = worker.index
        try:
            if worker in self._compiling:
                self._does(index, "compiles", math.inf)
                worker.compile()
                self._doing[index] = None
            self._compiled.put(None)
            self._clock.wake()
            jobs, taken = self._queues[index], deque[_Job]()  # those out of the queue already
            while (job := taken.popleft() if taken else jobs.get()) is not None:
                if self._closing:
                    return
                if isinstance(job, StartAhead):
                    worker.go_ahead(job)
                elif not self._run(worker, job, taken):
                    return
        except BaseException as error:  # raised in the main thread
            note(error, f"in worker {index} of jax_ssp")
            self._clock.fail(error)

    def _run(self, worker: Worker, start: StartClock, taken: deque[_Job]) -> bool:
        """Run a clock to its end; before waiting for that, dispatch and draw what comes next.

        Gives whether the worker can run another one.
        """
        began = time.perf_counter()
        index = worker.index
        if self._cancelled.ended(start):  # before it was begun
            self._skip(worker, start)
            return True
        self._does(index, f"computes clock {start.clock}", COMPUTING_SECONDS)
        if not worker.has_data():
            self._doing[index] = None
            self.report(WorkerDone(index, start.clock, start.token), None)
            self._cancelled.ended(start)  # if it was, that was late
            return True
        fate = fate_of(self._fates, start) if self._fates else FINE
        if fate is not FINE and not self._suffer(worker, start, fate, began):
            return False
        if not self._begin(worker, start):
            return True
        jobs = self._queues[index]
        if not jobs.empty():
            following = jobs.get()
            if isinstance(following, StartAhead):
                worker.go_ahead(following)
            else:
                taken.append(following)  # the end; or, this clock cancelled, the next one
        worker.prefetch(start)
        push = worker.finish()
        self._sleep(start, began, fate.seconds)
        self._doing[index] = None
        event = push.event(start)
        self._store.push(event, push.payload, push.metrics)
        self.report(event, push.metrics)
        if self._cancelled.ended(start):  # so that push was late
            worker.cancel()
        return True

    def _skip(self, worker: Worker, start: StartClock) -> None:
        worker.skip(start.local_steps)
        if self._delays is not None:
            self._delays.draw(start)  # so that the next clock gets its own

    def _suffer(self, worker: Worker, start: StartClock, fate: Fate, began: float) -> bool:
        """Play what is to go wrong in this clock; gives whether the worker goes on with it."""
        index = worker.index
        if fate.error is not None:
            raise fate.error
        if fate.hangs:
            while not self._closing:
                self._wakes[index].get()
            return False
        if fate.lost:
            self._sleep(start, began, fate.seconds)
            self._doing[index] = None
            self.report(WorkerLost(index), None)
            return False
        if fate.nan:
            worker.spoil(start.clock)
        return True

    def _begin(self, worker: Worker, start: StartClock) -> bool:
        """Begin a clock, unless it is cancelled by now; the version to adopt may then be gone."""
        try:
            adopts = not worker.holds(start.version)
            snapshot = self._store.snapshot(start.version) if adopts else None
        except LookupError:
            if not self._cancelled.ended(start):
                raise
            self._skip(worker, start)
            return False
        worker.begin(start, snapshot)
        return True

    def _sleep(self, start: StartClock, began: float, seconds: float) -> None:
        """Wait for the delay of this clock, and so many seconds more.

        But no longer once the clock is cancelled, or the run interrupted or closed.
        """
        if self._delays is not None:
            seconds += self._delays.draw(start)
        elif not seconds:
            return
        index = start.worker
        self._does(index, f"sleeps the injected delay of clock {start.clock}", QUIET_SECONDS)
        wake, until = self._wakes[index], began + seconds
        while not (self._closing or self._interrupted or start.token in self._cancelled):
            left = until - time.perf_counter()
            if left <= 0:
                return
            with contextlib.suppress(queue.Empty):
                wake.get(timeout=left)
