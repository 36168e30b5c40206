"""What a run on a Ray cluster costs beside bare Ray actors, and beside the devices of one process.

    python -m experiments.benchmarks.cluster [--quick] [--json FILE] [--megabytes 100]

All on a cluster of this machine, in one run. What is compared takes turns, some rounds each, so
that whatever else the machine does meets all alike; the median is over all turns.

- *exchange*: one worker pushes a delta of so many megabytes, the server merges it, and the worker
  reads the version; nothing is computed. `bare` does the same by hand: an actor that makes an
  array, and another one that does `+=` with it and gives the sum, which the first one reads. Ours
  does more: it acknowledges the push, checks sums of it, writes the tape, and merges by a program
  that takes transforms. Columns: `seconds` of a round, the median; `of_bare`, the ratio of speeds.
- *clocks*: four workers whose clocks last 50 ms (a sleep, and a small step), under SSP(3): updates
  a second on `Ray` and on `Devices`; `of_devices`, their ratio.

Expected: of_bare at least 0.8, of_devices at least 0.9.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from jax_ssp.controller.commands import Merge
from jax_ssp.runtimes.ray.cluster import connect

COLUMNS = ("what", "seconds", "updates_a_second", "of_bare", "of_devices")
CLOCK = 0.05  # seconds
WORKERS = 4
WARM = 3  # rounds, in which memory is met for the first time


class Moves:
    """A step that computes nothing: its delta is an array that is there already."""

    def init(self, params: Any) -> tuple[()]:
        return ()

    def __call__(self, params: Any, state: Any, batch: Any, key: Any) -> Any:
        return {"w": jnp.broadcast_to(batch, params["w"].shape)}, state, {}


def exchange(numbers: int, rounds: int, shares: int) -> list[float]:
    """Seconds of each push, merge and read of so many float32 numbers, but for the first ones."""
    result = ssp.train(
        Moves(),
        params={"w": np.zeros(numbers, np.float32)},
        data=lambda worker: itertools.repeat(np.float32(1)),
        policy=ssp.BSP(),
        runtime=ssp.Ray(1, server_shards=shares),
        num_clocks=rounds,
    )
    times = [now for now, _, commands in result.tape if commands]
    return [after - before for before, after in itertools.pairwise(times[WARM:-1])]


def bare(numbers: int, rounds: int) -> list[float]:
    """The same by hand, with two actors."""
    import ray

    connect(None)

    class Makes:
        def make(self, total: Any) -> Any:
            return np.full(numbers, 1, np.float32)

    class Adds:
        def __init__(self) -> None:
            self.total = np.zeros(numbers, np.float32)

        def add(self, delta: Any) -> Any:
            self.total += delta
            return self.total

    makes, adds = (ray.remote(num_cpus=0)(kind).remote() for kind in (Makes, Adds))
    total = ray.put(np.zeros(numbers, np.float32))
    seconds: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        total = adds.add.remote(makes.make.remote(total))
        ray.wait([total], fetch_local=False)
        seconds.append(time.perf_counter() - began)
    for actor in (makes, adds):
        ray.kill(actor)
    return seconds[WARM:]


def loss(params: Any, batch: Any, key: Any) -> Any:
    return jnp.mean((params["w"] - batch) ** 2), {}


def data(worker: int) -> Any:
    return itertools.repeat(np.full(1000, worker, np.float32))


def seconds_an_update(runtime: ssp.Ray | ssp.Devices, clocks: int) -> float:
    """Of a run whose clocks last 50 ms, without its first ones."""
    result = ssp.train(
        ssp.make_step(loss, optax.sgd(0.1)),
        params={"w": jnp.zeros(1000)},
        data=data,
        policy=ssp.SSP(3),
        runtime=runtime,
        num_clocks=clocks,
    )
    merges = [now for now, _, commands in result.tape if any(type(c) is Merge for c in commands)]
    times = merges[4 * WORKERS :]
    return (times[-1] - times[0]) / (len(times) - 1)


def in_turn(turns: int, *measures: Callable[[], list[float]]) -> list[float]:
    """Of each what it measures, the median over all turns."""
    found: list[list[float]] = [[] for _ in measures]
    for _ in range(turns):
        for seconds, measure in zip(found, measures, strict=True):
            seconds += measure()
    return list(map(statistics.median, found))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and report."""
    args = arguments(__doc__, argv, megabytes=100)
    numbers = (1 if args.quick else args.megabytes) * 250_000
    turns, rounds, clocks = (1, 6, 20) if args.quick else (3, 13, 60)
    delay = ssp.delays.Constant(CLOCK)
    devices = ssp.Devices(num_workers=WORKERS, workers_per_device=WORKERS, delay=delay)
    by_hand, one, two = in_turn(
        turns,
        lambda: bare(numbers, rounds),
        lambda: exchange(numbers, rounds, 1),
        lambda: exchange(numbers, rounds, 2),
    )
    here, there = in_turn(
        turns,
        lambda: [seconds_an_update(devices, clocks)],
        lambda: [seconds_an_update(ssp.Ray(WORKERS, delay=delay), clocks)],
    )
    rows: list[dict[str, Any]] = [
        {"what": "bare actors", "seconds": by_hand},
        {"what": "exchange, 1 share", "seconds": one, "of_bare": by_hand / one},
        {"what": "exchange, 2 shares", "seconds": two, "of_bare": by_hand / two},
        {"what": "clocks, Devices", "updates_a_second": 1 / here},
        {"what": "clocks, Ray", "updates_a_second": 1 / there, "of_devices": here / there},
    ]
    report("cluster", COLUMNS, [{**dict.fromkeys(COLUMNS, ""), **row} for row in rows], args)


if __name__ == "__main__":
    main()
