"""One host thread a worker, each with a queue of what to do; all compute at the same time."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Mapping

from jax_ssp.controller.commands import Cancel, StartAhead, StartClock
from jax_ssp.controller.events import DeltaReady, WorkerDone
from jax_ssp.runtimes.comebacks import Comebacks
from jax_ssp.runtimes.crew import Job, Stay
from jax_ssp.worker.kept import Kept
from jax_ssp.worker.waits import Waiting
from jax_ssp.worker.worker import Worker


class Threads(Comebacks):
    """Runs each worker in a thread of its own, under the settings of the thread that makes this.

    It is made of what `Comebacks` is made of.
    """

    _compiled: queue.SimpleQueue[None]  # one for each worker
    _compiling: set[Worker]

    def prepare(self) -> None:
        """Have the workers compile, all at one time."""
        self._running.listener = self
        self._compiled = queue.SimpleQueue()
        # What is alike is compiled once, by the first who needs it; all that differ at one time.
        first = {(worker.device, worker.kind): worker for worker in reversed(self._workers)}
        self._compiling = set(first.values())
        self._crew.start()
        there = sum(stay.joined for stay in self._crew.stays)
        while self._compiled.qsize() < there and not self._clock.stopping:
            self._clock.pause()

    def start(self, start: StartClock | StartAhead) -> None:
        stay = self._crew.stays[start.worker]
        stay.given += 1
        stay.jobs.put(start)

    start_ahead = start  # to be done after what the worker was given before

    def cancel(self, cancel: Cancel) -> None:
        self._running.cancelled.add(cancel.token)
        self._crew.stays[cancel.worker].wake.put(None)

    def passed(self, start: StartClock) -> None:
        self._running.draws(start)

    def stop(self, worker: int) -> None:
        self._crew.stays[worker].jobs.put(None)

    def arm(self, on: bool) -> None:
        self._running.armed = on
        self._arm()

    def _arm(self) -> None:
        self._running.donors = {*self._asked.values()}
        for worker in self._workers:
            worker.armed = self._running.arms(worker.index)
            if not worker.armed:
                worker.began = None  # its arrays are the cut's by now, or nobody's

    def kept(self, running: Mapping[int, StartClock]) -> list[Kept | None] | None:
        states: list[Kept | None] = []
        for stay in self._crew.stays:
            start = running.get(stay.index)
            state = self._state(stay, start)
            anew = start is None and (stay.gone or (stay.worker is None and stay.inherits is None))
            if state is None and not anew:
                return None
            states.append(None if anew else state)
        return states

    def _state(self, stay: Stay, running: StartClock | None) -> Kept | None:
        worker = stay.worker
        if worker is None or stay.gone:
            return None
        if running is None:
            return worker.keep() if stay.done == stay.given else None
        began = worker.began
        return None if began is None or began[0] != running.token else began[1]

    def settle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        for stay in self._crew.stays:
            if stay.worker is not None and not stay.gone:
                stay.thread.join(max(0.0, until - time.monotonic()))

    def waits(self) -> list[Waiting]:
        found = [stay.waits() for stay in self._crew.stays]
        return [each for each in found if each is not None]

    def interrupted(self) -> None:
        self._running.hurried = True
        for stay in self._crew.stays:
            stay.wake.put(None)

    def close(self) -> None:
        self._running.closing = self._running.hurried = True
        self._crew.close()

    # In a worker's thread.

    def _work(self, stay: Stay) -> None:
        """What a thread does: get ready, then whatever its queue says."""
        try:
            if stay.worker is None:
                self._come_again(stay)
            else:
                self._compile(stay, stay.worker)
            jobs, taken = stay.jobs, deque[Job]()  # those out of the queue already
            while (job := taken.popleft() if taken else jobs.get()) is not None:
                if self._running.closing or stay.gone:
                    return
                if type(job) is StartClock:
                    if not self._running.run(stay, job, taken):
                        return
                    stay.runs = None
                elif stay.worker is not None:
                    stay.worker.go_ahead(job)
                stay.done += 1
                if stay.worker is None or stay.worker.armed:
                    self.begun(stay)
        except BaseException as error:
            self._failed(stay, error)

    def _compile(self, stay: Stay, worker: Worker) -> None:
        if worker in self._compiling:
            with stay.telling():  # what cannot be compiled is no fault of one worker
                stay.compiles()
                worker.warmup.compile()
                stay.doing = None
        if self._running.compiled is not None:
            for steps in worker.exchange.local_steps:
                self._running.compiled.add((worker.device, steps, worker.kind))
        self._compiled.put(None)
        self._clock.wake()

    def tell(
        self,
        stay: Stay,
        event: DeltaReady | WorkerDone,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        if self._looks is not None:
            self._looks.finished(stay, event)
        stay.doing = stay.runs = None
        stay.tells = True
        self.report(event, metrics)
        stay.tells = False

    def begun(self, stay: Stay) -> None:
        """It has begun or done what it was given: perhaps a cut waits for that, or one to join."""
        if self._running.armed:
            with stay.telling():
                self.report(None, None)
        if stay.index in self._running.donors and self.report_all is not None:
            self._give(stay)
