"""Where the time of a clock goes, part by part: CPU time and wall time of one worker's clock.

    python -m experiments.benchmarks.clock [--quick] [--policy SSP] [--json FILE]

Two workers train four square tanh layers on two CPU devices, one step a clock. What is measured is
the parts of our own code: each is wrapped, and what a part takes counts for it alone, less what the
parts inside take. What no part of ours takes, XLA's threads do. All is divided by the clocks of
all workers, and given for the run's second half: what compiles is in the first.

Columns: `bytes` of the parameters; `part`; `cpu_us`, microseconds of CPU time; `wall_us`, of wall
time in the workers' threads, which is CPU time and what they wait for; XLA's threads have no wall
time of their own (theirs is their CPU time). `a step alone` is the bound: the same program without
any exchange, all threads together. Takes 20 seconds of an idle machine (`--quick`: 5).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.overhead import SIZES, Problem

COLUMNS = ("bytes", "part", "cpu_us", "wall_us")
WORKERS = 2


def parts() -> list[tuple[str, Any, tuple[str, ...]]]:
    """The parts of a clock: a name, a class, and its methods that belong to the part."""
    from jax_ssp.controller import Controller
    from jax_ssp.controller.rows import Fold
    from jax_ssp.controller.tape import Tape
    from jax_ssp.data.feed import Feed
    from jax_ssp.placement import Placement
    from jax_ssp.runtimes.loop import Loop
    from jax_ssp.runtimes.observing import History
    from jax_ssp.runtimes.running import Running
    from jax_ssp.server.local_store import LocalStore
    from jax_ssp.server.programs import MergePrograms
    from jax_ssp.worker.outbox import Outbox
    from jax_ssp.worker.worker import Worker

    return [
        ("dispatch of the step", Worker, ("begin",)),
        ("adopt, add own deltas", Worker, ("read",)),
        ("worker's bookkeeping", Worker, ("whole", "dispatched")),
        ("batches", Feed, ("take", "prefetch")),
        ("wait for the step", Placement, ("wait",)),
        ("metrics", Outbox, ("wait",)),
        ("thread of the worker", Running, ("run",)),
        ("lock, loop", Loop, ("take", "happened")),
        ("controller", Controller, ("handle",)),
        ("tape and its rows", Tape, ("append",)),
        ("tape and its rows", Fold, ("take",)),
        ("history", History, ("merged",)),
        ("store", LocalStore, ("lease", "push", "snapshot", "merge")),
        ("dispatch of the merge", MergePrograms, ("merge",)),
    ]


class Meter:
    """What parts take, each less the parts inside it."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])  # CPU, wall: seconds
        self._inside = threading.local()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with what it takes put down under a name."""

        @wraps(function)
        def metered(*arguments: Any, **named: Any) -> Any:
            above = getattr(self._inside, "mine", None)
            self._inside.mine = mine = [0.0, 0.0]
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took = time.thread_time() - cpu, time.perf_counter() - wall
                self._inside.mine = above
                here = self.taken[name]
                for which, seconds in enumerate(took):
                    here[which] += seconds - mine[which]
                    if above is not None:
                        above[which] += seconds

        return metered

    def read(self) -> dict[str, list[float]]:
        """What was taken so far, by part; with XLA's threads, and all."""
        taken = {name: list(took) for name, took in self.taken.items()}
        xla = xla_seconds()
        return taken | {
            "XLA's threads": [xla, xla],
            "all": [time.process_time(), time.perf_counter()],
        }


def xla_seconds() -> float:
    """CPU time of all threads that are not Python's: XLA's."""
    ours = {thread.native_id for thread in threading.enumerate()}
    total = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) not in ours:
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


class Watched(Problem):
    """A problem whose meter is read while its first worker draws batches."""

    def __init__(self, size: Any, meter: Meter, clocks: int) -> None:
        super().__init__(size, WORKERS, 1)
        self._meter = meter
        self._marks = clocks // 3, clocks - 2
        self.seen: list[dict[str, list[float]]] = []

    def _batches(self, worker: int) -> Any:
        for number in itertools.count():
            if worker == 0 and number in self._marks:
                self.seen.append(self._meter.read())
            yield self.batch

    def table(self) -> dict[str, list[float]]:
        """Microseconds a clock of each part, between the two marks."""
        before, after = self.seen
        clocks = WORKERS * (self._marks[1] - self._marks[0])
        return {
            name: [1e6 * (a - b) / clocks for a, b in zip(took, before[name], strict=True)]
            for name, took in after.items()
            if name in before
        }


def rows_of(size: Any, meter: Meter, policy: Any, clocks: int) -> list[dict[str, Any]]:
    """The table of a size."""
    problem = Watched(size, meter, clocks)
    problem.ours(policy, clocks)
    table = problem.table()
    problem.bound(2)
    before = time.process_time()
    problem.bound(clocks)
    alone = 1e6 * (time.process_time() - before) / (WORKERS * clocks)
    rows = sorted(table.items(), key=lambda row: -row[1][0])
    rows += [("a step alone", [alone, alone])]
    size_bytes = 4 * 4 * size.width**2
    return [dict(zip(COLUMNS, (size_bytes, name, *took), strict=True)) for name, took in rows]


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, policy="SSP")
    import jax

    jax.config.update("jax_num_cpu_devices", WORKERS)
    import jax_ssp as ssp

    meter = Meter()
    for name, owner, methods in parts():
        for method in methods:
            setattr(owner, method, meter.wrap(name, getattr(owner, method)))
    policy = {"SSP": ssp.SSP(3), "BSP": ssp.BSP(), "ASP": ssp.ASP()}[args.policy]
    rows = []
    for size, clocks in zip(SIZES, (600, 150, 15), strict=False):
        clocks = max(5, clocks // 6) if args.quick else clocks
        if not (args.quick and size.width > 256):
            rows += rows_of(size, meter, policy, clocks)
    report("clock", COLUMNS, rows, args)


if __name__ == "__main__":
    main()
