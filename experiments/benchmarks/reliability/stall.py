"""What saving costs a run: two workers with momentum and 100 MB of parameters, saved every minute.

    python -m experiments.benchmarks.reliability.stall [--seconds 150] [--rounds 2] [--quick]
        [--json FILE]

Dense layers (5 of 2,240 square, 25 million float32 parameters) on two CPU devices under SSP(3), for
so many seconds without checkpoints, and with `Checkpoints(every="60s")`; one after the other, in
each round. The bound is the run without them.

Columns: `checkpoints`; `rounds`; `updates_per_second` (median); `stall`, 1 - the median of the
ratios of a round, of updates per second with checkpoints to those without; `saves`; `megabytes` of
one; `save_seconds`, from its cut to its end; `cpu_seconds`, of the thread that saves, for one.

Expected: workers stall at most 2 % of the time.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report

COLUMNS = ("checkpoints", "rounds", "updates_per_second", "stall", "saves", "megabytes")
COLUMNS += ("save_seconds", "cpu_seconds")
LAYERS, WIDTH, BATCH = 5, 2240, 16


class After(ssp.Observer):
    """Ends a run after so many seconds, and counts what was merged in them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None
        self._first = 0
        self.rate = 0.0  # updates a second

    def on_clock(self, row: Any) -> None:
        now = time.perf_counter()
        if self._began is None:
            self._began, self._first = now, row["updates"]
        elif now - self._began >= self._seconds:
            if not self.rate:
                self.rate = (row["updates"] - self._first) / (now - self._began)
            self.stop("the time is over")


def loss(params: Any, batch: Any, key: Any) -> Any:
    x = batch
    for layer in params:
        x = jnp.tanh(x @ layer)
    return jnp.mean(x**2), {}


def measure(seconds: float, every: str | None) -> tuple[float, dict[str, Any]]:
    """Updates a second, and what was counted of saves."""
    rng = np.random.default_rng(0)
    params = [(rng.standard_normal((WIDTH, WIDTH), np.float32) / WIDTH**0.5) for _ in range(LAYERS)]
    batch = rng.standard_normal((BATCH, WIDTH), np.float32)
    after = After(seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        saved = None if every is None else ssp.Checkpoints(folder, every=every, keep=1)
        ssp.train(
            ssp.make_step(loss, optax.sgd(0.01, momentum=0.9)),
            params=params,
            data=lambda worker: itertools.repeat(batch),
            policy=ssp.SSP(bound=3),
            runtime=ssp.Devices(num_workers=2, cpu_devices=2),
            num_clocks=10**6,
            checkpoint=saved,
            observers=[after],
            progress=False,
        )
        if saved is None:
            return after.rate, {}
        return after.rate, (ssp.read_run(folder).summary or {})["checkpoints"]


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(__doc__, argv, seconds=150.0, rounds=2)
    jax.config.update("jax_num_cpu_devices", 2)
    seconds, rounds, every = (12.0, 1, "5s") if args.quick else (args.seconds, args.rounds, "60s")
    rates: dict[str, list[float]] = {"none": [], every: []}
    counts: list[dict[str, Any]] = []
    for number in range(rounds):
        for what in (("none", every), (every, "none"))[number % 2]:
            rate, saves = measure(seconds, None if what == "none" else what)
            rates[what].append(rate)
            counts += [saves] if saves else []
            print(what, rate, saves, file=sys.stderr, flush=True)
    ratios = [one / other for one, other in zip(rates[every], rates["none"], strict=True)]
    saved = max(1, sum(each["saved"] for each in counts))
    each = {name: sum(each[name] for each in counts) / saved for name in counts[0]}
    rows = [
        dict.fromkeys(COLUMNS, "-") | {"checkpoints": "none", "stall": 0.0, "rounds": rounds},
        {
            "checkpoints": every,
            "rounds": rounds,
            "stall": 1 - statistics.median(ratios),
            "saves": saved,
            "megabytes": each["bytes"] / 1e6,
            "save_seconds": each["seconds"],
            "cpu_seconds": each["cpu_seconds"],
        },
    ]
    for row in rows:
        row["updates_per_second"] = statistics.median(rates[row["checkpoints"]])
    report("stall", COLUMNS, rows, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
