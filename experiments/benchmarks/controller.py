"""What an event costs the controller, tape included, from 8 workers to 65,536.

    python -m experiments.benchmarks.controller [--quick] [--json FILE]

Workers finish their clocks in random order under SSP(3). The events are made beforehand, so that
only `Controller.handle` and `Tape.append` are timed, in seconds of this thread: other processes add
to them only by what they do to the caches. Takes about a minute (`--quick`: 10 seconds).

Columns: `us_per_event`, the median of 5 runs (microseconds); `bytes_per_worker`, what the
controller holds after those events, without the tape.

Expected: some 5.5 us at 8 workers, and less than twice as much at 65,536 (Python 3.11, one idle
core of an AMD EPYC; the aim is 3.5 and 4.5).
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

from experiments.benchmarks.common import arguments, report
from jax_ssp.controller import Controller, StartClock, WorkerJoined
from jax_ssp.controller.events import Event
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import SSP

WORKERS = (8, 64, 512, 4096, 65536)
COLUMNS = ("workers", "us_per_event", "bytes_per_worker")
POLICY = SSP(bound=3)


def rows(quick: bool) -> list[dict[str, Any]]:
    """One row for each number of workers."""
    least, clocks = (20_000, 2) if quick else (200_000, 6)  # clocks of each worker, at the least
    return [_row(workers, max(least, clocks * workers)) for workers in WORKERS]


def _row(workers: int, count: int) -> dict[str, Any]:
    joins, deltas = _events(workers, count)
    gc.collect()
    gc.freeze()  # the events are ours: collections during a run shall not walk them
    try:
        micros = statistics.median(_seconds(joins, deltas) for _ in range(5)) / count * 1e6
        size = _bytes(joins, deltas) / workers
    finally:
        gc.unfreeze()
    return dict(zip(COLUMNS, (workers, round(micros, 2), round(size)), strict=True))


def _events(workers: int, count: int) -> tuple[list[Event], list[Event]]:
    """Joins, then finished clocks, as a run has them in which whoever runs may finish next."""
    rng = random.Random(0)
    controller, running = Controller(POLICY), list[StartClock]()
    joins: list[Event] = [WorkerJoined(worker) for worker in range(workers)]
    deltas: list[Event] = []

    def handle(event: Event) -> None:
        running.extend(c for c in controller.handle(event, 0.0) if isinstance(c, StartClock))

    for join in joins:
        handle(join)
    for _ in range(count):
        at = rng.randrange(len(running))
        running[at], running[-1] = running[-1], running[at]
        start = running.pop()
        deltas.append(start.finished())
        handle(deltas[-1])
    return joins, deltas


def _seconds(joins: list[Event], deltas: list[Event]) -> float:
    """What the controller and the tape take for all the finished clocks."""
    controller, tape = Controller(POLICY), Tape({"bound": POLICY.bound})
    for join in joins:
        controller.handle(join, 0.0)
    handle, append = controller.handle, tape.append
    begin = time.thread_time()
    for now, event in enumerate(deltas):
        append(float(now), event, handle(event, float(now)))
    return time.thread_time() - begin


def _bytes(joins: list[Event], deltas: list[Event]) -> int:
    """What a controller that has seen all this holds in memory."""
    tracemalloc.start()
    try:
        controller = Controller(POLICY)
        for event in joins + deltas:
            controller.handle(event, 0.0)
        with_it = tracemalloc.get_traced_memory()[0]
        del controller
        return with_it - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    report("controller", COLUMNS, rows(args.quick), args)


if __name__ == "__main__":
    main()
