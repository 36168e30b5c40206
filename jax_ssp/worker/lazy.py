"""Clocks that are computed when their delta is needed, one after the other or several at once.

For the worlds in which a schedule, not the computing, says when a clock ends. What is computed
together depends on the order of events alone, so a replay computes the same together.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from jax_ssp.controller import StartAhead, StartClock
from jax_ssp.controller.events import DeltaReady
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.store import Store
from jax_ssp.worker.kept import Kept, kept
from jax_ssp.worker.replica import Replica
from jax_ssp.worker.waits import COMPUTING_SECONDS, Waiting
from jax_ssp.worker.worker import Worker


class _Job(NamedTuple):
    start: StartClock
    ahead: StartAhead | None


class Lazy:
    """Computes for workers that share a device.

    Args:
        workers: by number.
        store: where they read and push.
        batch: so many clocks at most are computed in one program, each with its own parameters;
            always a power of 2 of them, so that few programs are compiled.
    """

    def __init__(self, workers: Sequence[Worker], store: Store, batch: int = 1) -> None:
        self._workers = workers
        self._store = store
        self._batch = batch
        self._granted: dict[int, StartAhead] = {}
        self._jobs: dict[int, _Job] = {}  # not computed yet, in the order of their starts
        self._computing: tuple[int, float] | None = None  # whose clock just now, since when

    def go_ahead(self, grant: StartAhead) -> None:
        """A worker may start this clock as soon as it has finished the one before."""
        self._granted[grant.worker] = grant

    def has_data(self, worker: int) -> bool:
        """Whether there is data for the next clock of this worker."""
        mine = self._workers[worker]
        return mine.is_dispatched or mine.has_data()

    def kept(self, lost: Collection[int] = ()) -> list[Kept | None]:
        """What each worker is, but for those lost; a clock not computed yet begins with that."""
        return [None if each.index in lost else each.keep() for each in self._workers]

    def between(self, worker: int) -> Replica:
        """What a worker is before the clock that it is to run; or behind it, if it is computed."""
        mine, job, ahead = self._workers[worker], self._jobs.get(worker), None
        if job is not None:
            ahead, self._jobs[worker] = job.ahead, job._replace(ahead=None)
        elif not mine.is_dispatched:
            ahead = self._granted.pop(worker, None)
        if ahead is not None:  # as in a thread of its own, which runs ahead at once
            mine.go_ahead(ahead)
        return kept(mine.replica, mine.carries)

    def done(self, worker: int) -> None:
        """The clock that this worker was to run has no data."""
        self._jobs.pop(worker, None)
        self._granted.pop(worker, None)

    def start(self, start: StartClock) -> None:
        """A worker is to run this clock."""
        ahead = self._granted.pop(start.worker, None)
        self._jobs[start.worker] = _Job(start, ahead)

    def cancel(self, worker: int) -> None:
        """End the clock that this worker was to run, computed or not."""
        job = self._jobs.pop(worker, None)
        if job is None:
            self._workers[worker].cancel()
        else:
            self._workers[worker].skip(job.start.local_steps)

    def push(self, start: StartClock) -> tuple[DeltaReady, Mapping[str, float]]:
        """What is to be reported of this clock, and its metrics; its payload is in the store."""
        self._computing = start.worker, time.monotonic()
        self._compute_for(start.worker)
        push = self._workers[start.worker].finish()
        event = push.event(start)
        self._store.push(event, push.payload, push.metrics)
        self._computing = None
        return event, push.metrics

    def waits(self) -> list[Waiting]:
        """What is waited for just now."""
        for_data = [waits for each in self._workers if (waits := each.waits()) is not None]
        computing = self._computing
        if for_data or computing is None:
            return for_data
        worker, since = computing
        seconds = time.monotonic() - since
        return [Waiting(worker, "computes a clock", seconds, COMPUTING_SECONDS)]

    def _compute_for(self, worker: int) -> None:
        if worker in self._jobs:
            together = self._together(worker)
            if len(together) > 1:
                self._compute(together)
            else:
                start, ahead = self._jobs.pop(worker)
                if ahead is not None:
                    self._workers[worker].go_ahead(ahead)
                self._workers[worker].begin(start, self._read(start))

    def _read(self, start: StartClock) -> Snapshot | None:
        """The version to adopt; None if the worker holds it."""
        held = self._workers[start.worker].holds(start.version)
        return None if held else self._store.snapshot(start.version)

    def _together(self, worker: int) -> list[int]:
        """This worker and others whose clocks can be computed in the same program."""
        mine = self._workers[worker]
        alone = self._jobs[worker].ahead is not None or mine.replica.ran > 0 or mine.carries
        if self._batch == 1 or alone:
            return [worker]
        kind = self._kind(worker)
        others = (
            other
            for other, job in self._jobs.items()
            if other != worker
            and job.ahead is None
            and not self._workers[other].replica.ran
            and self._kind(other) == kind
        )
        steps = self._steps(worker)
        alike = [each for each in islice(others, self._batch - 1) if self._steps(each) == steps]
        alike.insert(0, worker)
        return alike[: 1 << (len(alike).bit_length() - 1)]

    def _steps(self, worker: int) -> int:
        return self._workers[worker].ready(self._jobs[worker].start)

    def _kind(self, worker: int) -> tuple[object, ...]:
        return self._jobs[worker].start.local_steps, self._workers[worker].kind

    def _compute(self, together: list[int]) -> None:
        """Run the clocks of these workers in one program, which stacks what each gives it."""
        workers = [self._workers[worker] for worker in together]
        jobs = [self._jobs.pop(worker) for worker in together]
        steps = workers[0].ready(jobs[0].start)
        inputs = [
            worker.whole(worker.read(start, self._read(start)), steps, start)
            for worker, (start, _) in zip(workers, jobs, strict=True)
        ]
        came = workers[0].program.run_together(steps, inputs)
        for worker, job, given, (delta, state, part) in zip(
            workers, jobs, inputs, came, strict=True
        ):
            worker.dispatched(job.start, given.base, delta, state, [part])
