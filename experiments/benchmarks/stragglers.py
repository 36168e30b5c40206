"""What a bound gains on real devices when workers straggle: seconds for a number of updates.

    python -m experiments.benchmarks.stragglers [--quick] [--json FILE]

Workers are real threads, and a clock lasts at least as long as a delay model says; the model that
is trained is so small that the delays are all. What the policies gain against BSP, `ratio_to_bsp`,
is compared with what virtual time predicts for the same draws, `predicted_ratio_to_bsp`. There
merging and deciding take no time, so the difference is what they do take, threads and timers of the
system included. Ratios are medians over rounds, each with draws of its own; all policies of a round
have the same.

Columns: `delays`, see `DELAYS`; `workers`; `policy`; and the two ratios. To stderr: by how much
measured seconds differ from predicted ones, at most and in the median. Takes 2.5 minutes
(`--quick`: 25 seconds).

Expected: with exponential delays and 8 workers at most 0.55 for SSP(3), and seconds within 5 % of
the predicted ones on an otherwise idle machine.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, median_ratio, report

COLUMNS = ("delays", "workers", "policy", "ratio_to_bsp", "predicted_ratio_to_bsp")
USUAL = ssp.delays.LogNormal(median=20e-3, sigma=0.25)  # seconds
DELAYS = {
    "exponential": ssp.delays.Exponential(mean=25e-3),
    "bursts": ssp.delays.Straggler(USUAL, factor=4.0, burst=4, every=16),
    "one 4 times slower": ssp.delays.Straggler(USUAL, factor=4.0),
}
POLICIES: dict[str, ssp.policies.Policy] = {
    "BSP()": ssp.BSP(),
    "SSP(1)": ssp.SSP(1),
    "SSP(3)": ssp.SSP(3),
    "SSP(7)": ssp.SSP(7),
    "ASP()": ssp.ASP(),
}


def loss_fn(params: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    return jnp.mean((batch @ params["w"]) ** 2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(1e-2))


def measured(policy: Any, delay: Any, workers: int, updates: int, seed: int) -> float:
    """Seconds for so many updates."""
    result = ssp.train(
        STEP,
        progress=False,
        params={"w": np.ones(16, np.float32)},
        data=lambda worker: itertools.repeat(np.ones((4, 16), np.float32)),
        policy=policy,
        runtime=ssp.Devices(num_workers=workers, delay=delay, seed=seed),
        max_updates=updates,
    )
    return result.seconds


def predicted(policy: Any, delay: Any, workers: int, updates: int, seed: int) -> float:
    """The same in virtual time."""
    runtime = ssp.Virtual(num_workers=workers, delay=delay, seed=seed, compute=False)
    return ssp.train(policy=policy, runtime=runtime, max_updates=updates, progress=False).seconds


def rows(name: str, workers: int, updates: int, rounds: int) -> list[dict[str, Any]]:
    """The rows of a delay model."""
    taken: dict[str, list[tuple[float, float]]] = {policy: [] for policy in POLICIES}
    for seed in range(rounds):
        for policy, each in POLICIES.items():
            how = (each, DELAYS[name], workers, updates, seed)
            taken[policy].append((measured(*how), predicted(*how)))
    found = []
    for policy, pairs in taken.items():
        ratios = [
            median_ratio(ours, theirs)
            for ours, theirs in zip(
                zip(*pairs, strict=True), zip(*taken["BSP()"], strict=True), strict=True
            )
        ]
        found.append(dict(zip(COLUMNS, (name, workers, policy, *ratios), strict=True)))
        off = [wall / virtual - 1 for wall, virtual in pairs]
        print(
            f"{name}, {policy}: {statistics.median(wall for wall, _ in pairs):.2f} s, "
            f"{max(off, key=abs):+.1%} at most and {statistics.median(off):+.1%} in the median "
            "against virtual time",
            file=sys.stderr,
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    workers, clocks, rounds = (4, 15, 2) if args.quick else (8, 60, 3)
    jax.config.update("jax_num_cpu_devices", workers)
    measured(ssp.SSP(3), ssp.delays.Constant(1e-3), workers, workers, seed=0)  # warms up
    found = [row for name in DELAYS for row in rows(name, workers, clocks * workers, rounds)]
    report("stragglers", COLUMNS, found, args)


if __name__ == "__main__":
    main()
