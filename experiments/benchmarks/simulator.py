"""How fast virtual time runs: clocks of workers a second, the controller and the tape included.

    python -m experiments.benchmarks.simulator [--quick] [--json FILE]

Under SSP(3) with exponential delays: the clockwork alone (`compute=False`) for 8 to 10,000 workers,
with a delay model of ours and with a function, which is called for every clock; and with real
gradients for 64 workers on one device, an MLP of four layers of 64 x 64 on batches of 16, where up
to `batch` clocks that are under way together are computed in one program. With gradients, measured
is what lies between the first and the last event, and all is compiled by a run before; without, the
whole call of `train`. Medians of 5 runs (`--quick`: 3, shorter ones).

Columns: `workers`; `delay`, "ours" or "function"; `compute`; `batch` of `ssp.Virtual`;
`clocks_per_second`. To stderr: which batch is the fastest. Takes a minute (`--quick`: 15 seconds).
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report, seconds

COLUMNS = ("workers", "delay", "compute", "batch", "clocks_per_second")
WORKERS = (8, 100, 1_000, 10_000)  # without computing
COMPUTING = 64  # workers, with it
BATCHES = (1, 8, 64)
DELAY = ssp.delays.Exponential(mean=1.0)
WIDTH = 64


def drawn(worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
    """A delay as a user would write it: what `DELAY` gives, one by one."""
    return rng.exponential(1.0)


DELAYS = {"ours": DELAY, "function": drawn}


class Stopwatch(ssp.Observer):
    """Takes the time between a run's start, when all is compiled, and its end."""

    def on_start(self, info: Any) -> None:
        self.began = time.perf_counter()

    def on_end(self, status: str) -> None:
        self.seconds = time.perf_counter() - self.began


def loss_fn(params: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    for weights in params.values():
        batch = jnp.tanh(batch @ weights)
    return jnp.mean(batch**2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(1e-2))


def clockwork(workers: int, delay: str, clocks: int) -> float:
    """Seconds that the clockwork alone takes."""
    runtime = ssp.Virtual(num_workers=workers, delay=DELAYS[delay], compute=False)
    how = {"policy": ssp.SSP(3), "runtime": runtime, "num_clocks": clocks}
    return seconds(lambda: ssp.train(**how, progress=False))


def training(batch: int, clocks: int) -> float:
    """Seconds with real gradients."""
    rng = np.random.default_rng(0)
    params = {
        f"layer{layer}": WIDTH**-0.5 * rng.standard_normal((WIDTH, WIDTH), np.float32)
        for layer in range(4)
    }
    examples = rng.standard_normal((16, WIDTH), np.float32)
    watch = Stopwatch()
    ssp.train(
        STEP,
        progress=False,
        params=params,
        data=lambda worker: itertools.repeat(examples),
        policy=ssp.SSP(3),
        runtime=ssp.Virtual(num_workers=COMPUTING, delay=DELAY, batch=batch),
        num_clocks=clocks,
        observers=[watch],
    )
    return watch.seconds


def rows(quick: bool) -> list[dict[str, Any]]:
    rounds = 3 if quick else 5
    found = []
    for workers, delay in itertools.product(WORKERS, DELAYS):
        clocks = max(4, (20_000 if quick else 200_000) // workers)
        taken = [clockwork(workers, delay, clocks) for _ in range(rounds)]
        rate = workers * clocks / statistics.median(taken)
        found.append(dict(zip(COLUMNS, (workers, delay, False, 1, rate), strict=True)))
    clocks = 10 if quick else 40
    for batch in BATCHES:
        training(batch, clocks)  # compiles
    for batch in BATCHES:
        rate = (
            COMPUTING * clocks / statistics.median(training(batch, clocks) for _ in range(rounds))
        )
        found.append(dict(zip(COLUMNS, (COMPUTING, "ours", True, batch, rate), strict=True)))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    found = rows(args.quick)
    fastest = max(
        (row for row in found if row["compute"]), key=lambda row: row["clocks_per_second"]
    )
    print(f"with gradients, batch {fastest['batch']} is the fastest", file=sys.stderr)
    report("simulator", COLUMNS, found, args)


if __name__ == "__main__":
    main()
