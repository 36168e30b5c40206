"""What failures cost a long run: the effective training time ratio, beside Young's and Daly's.

    python -m experiments.benchmarks.reliability.ettr [--quick] [--json FILE] [--measure]
        [--interval 60] [--hours 12] [--seeds 8] [--workers 4] [--save S] [--restore R] ...

Hours of a run are simulated in virtual time: the real controller under SSP(3), workers whose clocks
take about 2 seconds, checkpoints every minute, and failures at random, one in so many intervals
between two checkpoints on average (exponential times). What became of the time is told from the
tape, by `jax_ssp.report.goodput`, as for a real run. Takes about 2 minutes (`--quick`: seconds).

- *worker*: one of the workers is lost in a clock, and is back once `--rejoin` seconds have passed,
  after `--backoff` seconds for the first loss. The others go on, as far as the bound lets them.
- *process*: all is gone but what is on the disk. The process is there again after `--restart`
  seconds, loads the newest checkpoint (`--restore`), and computes the rows behind it once more, in
  the time that they took; what was not flushed is lost (up to `--flush` seconds). A save takes
  `--save` seconds beside the run, of which the workers stand still for `--stall`; a checkpoint
  counts once it is written. A failure while it comes back begins that anew.

`--measure` measures `--save`, `--restore`, `--stall` and `--restart` here, with 100 MB of
parameters, as much momentum, and the start of a small run; the programs of a larger one take longer
to compile. The defaults are what was measured on 2 cores of an AMD EPYC, rounded up, with 15
seconds more for a restart.

Beside it stand the shares of useful time by the formulas of the literature, for a run that falls
back to its last checkpoint, given the same costs: Young (1974), "A first order approximation to the
optimum checkpoint interval", and Daly (2006), "A higher order estimate of the optimum checkpoint
interval for restart dumps". They count the whole interval between checkpoints as recomputed work,
half of it on average, as it is here too.

Columns: `failures` of all seeds; `ettr`, its mean over the seeds, and the least of a seed; `mttr`
(seconds); `young`, `daly`, for process failures. The file has the costs, the formulas, and the ETTR
of each seed too.

Expected: at an MTBF of 20 intervals an ETTR of at least 0.97 where workers fail, and of 0.94 where
the process does.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.common import arguments, report
from jax_ssp.controller import Controller, Resumed, StartClock, WorkerJoined, WorkerLost
from jax_ssp.controller.events import Event
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import SSP
from jax_ssp.report.goodput import Goodput, goodput

COLUMNS = ("fails", "mtbf_intervals", "failures", "ettr", "least_ettr", "mttr", "young", "daly")
MTBF = (5, 10, 20, 50, 100)  # intervals
BOUND = 3
CLOCK = 2.0  # seconds
NEVER = math.inf
FORMULAS = {
    "young": "1 - stall / interval - interval / (2 mtbf) - (restart + restore) / mtbf",
    "daly": "interval / (mtbf exp(back / mtbf) (exp((interval + stall) / mtbf) - 1)), "
    "back = restart + restore",
}


PROGRAM = """
import jax.numpy as jnp, numpy as np, optax, jax_ssp as ssp
loss = lambda params, batch, key: (jnp.mean((params["w"] - batch) ** 2), {})
data = ssp.data.Shards(np.ones(64, np.float32), batch_size=4, num_workers=2)
step, runtime = ssp.make_step(loss, optax.adam(0.1)), ssp.Virtual(2)
ssp.train(step=step, params={"w": jnp.zeros(())}, data=data, runtime=runtime, num_clocks=2)
"""
"""A small run: until its first clocks are done, a process is there, its programs compiled."""


class Costs(NamedTuple):
    """What the parts of a failure take (seconds).

    Attributes:
        interval: between two checkpoints.
        save: to write one, beside the run.
        stall: of that, what the workers stand still for.
        restart: until a process that died is there again, its programs compiled.
        restore: to load a checkpoint.
        flush: between two times when rows of the tape come to the disk.
        backoff: before a worker that was lost is begun again.
        rejoin: until it is there.
    """

    interval: float
    save: float
    stall: float
    restart: float
    restore: float
    flush: float
    backoff: float
    rejoin: float


class _Run:
    """A controller, its tape, and when the clocks that run are finished."""

    def __init__(self, workers: int, rng: random.Random) -> None:
        self.tape = Tape({"bound": BOUND, "time": "wall", "num_workers": workers})
        self.now = 0.0
        self.running: dict[int, StartClock] = {}
        self.finishing: list[tuple[float, int, StartClock]] = []
        self._controller = Controller(SSP(BOUND))
        self._rng = rng
        for worker in range(workers):
            self.handle(0.0, WorkerJoined(worker))

    def handle(self, now: float, event: Event) -> None:
        """Let this happen now."""
        self.now = now
        commands = self._controller.handle(event, now)
        self.tape.append(now, event, commands)
        for command in commands:
            if isinstance(command, StartClock):
                self.running[command.worker] = command
                finish = now + CLOCK * self._rng.uniform(0.9, 1.1)
                heapq.heappush(self.finishing, (finish, command.token.grant, command))

    def until(self, end: float) -> None:
        """Run up to a time."""
        while self.finishing and self.finishing[0][0] <= end:
            now, _, start = heapq.heappop(self.finishing)
            if self.running.get(start.worker) == start:
                del self.running[start.worker]
                self.handle(now, start.finished())
        self.now = max(self.now, end)


def failing_workers(costs: Costs, workers: int, hours: float, mtbf: float, seed: int) -> Goodput:
    """A run whose workers fail; `mtbf` (seconds) is between two failures of any."""
    rng = random.Random(seed)
    run, away = _Run(workers, rng), list[tuple[float, int]]()
    failure = rng.expovariate(1 / mtbf)
    while (at := min(failure, away[0][0] if away else NEVER)) < 3600 * hours:
        run.until(at)
        if at == failure:
            failure += rng.expovariate(1 / mtbf)
            here = sorted(set(range(workers)) - {worker for _, worker in away})
            if len(here) > 1:  # the last one is a failure of the run
                worker = rng.choice(here)
                run.running.pop(worker, None)
                run.handle(at, WorkerLost(worker, "failed"))
                heapq.heappush(away, (at + costs.backoff + costs.rejoin, worker))
        else:
            run.handle(at, WorkerJoined(heapq.heappop(away)[1]))
    run.until(3600 * hours)
    return goodput(run.tape)


def failing_process(costs: Costs, workers: int, hours: float, mtbf: float, seed: int) -> Goodput:
    """A run whose process fails every `mtbf` seconds on average.

    The tape has the run's own time, which stands still while nobody runs. The time outside is told
    by the terms in its header.
    """
    rng = random.Random(seed)
    run = _Run(workers, rng)
    terms: list[dict[str, Any]] = [{"row": 0, "began": 0.0, "rows_replayed": 0}]
    terms[0]["restore_seconds"] = 0.0
    outside, ran, saved = 0.0, 0.0, 0.0  # time; the run's time, and that of the newest checkpoint
    while outside < 3600 * hours:
        lives = rng.expovariate(1 / mtbf)
        lives = min(lives, 3600 * hours - outside)
        began, first = ran, outside
        ran = began + lives
        outside += lives
        saved = _newest(costs, saved, began, ran)
        if outside >= 3600 * hours:
            break
        flushed = max(began, ran - rng.uniform(0, costs.flush))
        run.until(flushed)
        back, recomputed = costs.restart + costs.restore, flushed - saved
        while (died := rng.expovariate(1 / mtbf)) < back + recomputed:
            outside += died
        row = len(run.tape)
        run.handle(run.now, Resumed(len(terms), None, None, None, None))
        terms.append({"row": row, "began": outside + costs.restart, "rows_replayed": 0})
        terms[-1]["restore_seconds"] = costs.restore + recomputed
        outside += back + recomputed
        ran = flushed
        assert outside > first
    run.until(ran)
    tape = Tape({**run.tape.header, "terms": terms})
    for entry in run.tape:
        tape.append(*entry)
    return goodput(tape)


def _newest(costs: Costs, saved: float, began: float, ran: float) -> float:
    """The run's time in the newest checkpoint, of a process that ran from `began` to `ran`."""
    whole = math.floor((ran - costs.save - began) / costs.interval)
    return began + whole * costs.interval if whole > 0 else saved


def young(costs: Costs, mtbf: float) -> float:
    """The share of useful time by Young (1974): losses of first order, each by itself."""
    lost = costs.stall / costs.interval + costs.interval / 2 / mtbf
    return 1 - lost - (costs.restart + costs.restore) / mtbf


def daly(costs: Costs, mtbf: float) -> float:
    """The share of useful time by Daly (2006), with failures while it saves and comes back."""
    back = costs.restart + costs.restore
    segment = math.expm1((costs.interval + costs.stall) / mtbf)
    return costs.interval / (mtbf * math.exp(back / mtbf) * segment)


def rows(
    costs: Costs, workers: int, hours: float, seeds: Sequence[int], means: Sequence[int] = MTBF
) -> list[dict[str, Any]]:
    """One row for each kind of failure and each mean time between two (intervals)."""
    found: list[dict[str, Any]] = []
    for fails, simulate in (("worker", failing_workers), ("process", failing_process)):
        for intervals in means:
            mtbf = intervals * costs.interval
            spent = [simulate(costs, workers, hours, mtbf, seed) for seed in seeds]
            works = 1 - costs.stall / (costs.interval + costs.stall) if fails == "process" else 1
            ettr = [works * each.ettr for each in spent]  # the tape does not tell of standing still
            mttr = [each.mttr for each in spent if each.mttr is not None]
            formulas = (young(costs, mtbf), daly(costs, mtbf)) if fails == "process" else ("", "")
            values = (
                *(fails, intervals, sum(each.failures for each in spent)),
                *(statistics.mean(ettr), min(ettr), statistics.mean(mttr) if mttr else 0.0),
                *formulas,
            )
            of_seeds = {str(seed): each for seed, each in zip(seeds, ettr, strict=True)}
            found.append({**dict(zip(COLUMNS, values, strict=True)), "of_seeds": of_seeds})
    return found


def measured(costs: Costs) -> Costs:
    """The costs as they are here, for 100 MB of parameters and their momentum."""
    import numpy as np

    from jax_ssp.checkpoint.steps import Steps

    arrays = {name: np.ones(25_000_000, np.float32) for name in ("params", "momentum")}
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(Path(folder, "checkpoints"), keep=1)
        began = time.perf_counter()
        copies = {name: array.copy() for name, array in arrays.items()}
        stall = time.perf_counter() - began
        steps.save(1, {}, copies)
        save = time.perf_counter() - began
        newest = steps.newest()
        assert newest is not None
        began = time.perf_counter()
        steps.load(newest)
        restore = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
    restart = time.perf_counter() - began
    return costs._replace(save=save, restore=restore, stall=stall, restart=restart)


def main(argv: Sequence[str] | None = None) -> None:
    options = {"interval": 60.0, "save": 3.0, "stall": 0.3, "restart": 20.0, "restore": 3.0}
    options |= {"flush": 1.0, "backoff": 1.0, "rejoin": 5.0}
    more = {"hours": 12.0, "seeds": 8, "first": 0, "workers": 4, "measure": False}
    args = arguments(__doc__, argv, **options, **more)
    costs = Costs(**{name: getattr(args, name) for name in options})
    if args.measure:
        costs = measured(costs)
    hours, count = (1.0, 2) if args.quick else (args.hours, args.seeds)
    seeds = range(args.first, args.first + count)
    print(f"{costs}, {args.workers} workers, {hours:g} hours, seeds {list(seeds)}")
    made = rows(costs, args.workers, hours, seeds)
    of_seeds = {f"{row['fails']} {row['mtbf_intervals']}": row["of_seeds"] for row in made}
    more = {"costs": costs._asdict(), "formulas": FORMULAS, "ettr_of_seeds": of_seeds}
    report("ettr", COLUMNS, made, args, **more)


if __name__ == "__main__":
    main()
