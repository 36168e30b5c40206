"""Ways in which the devices of a run can be unequal: for good, or for a while."""

from __future__ import annotations

from typing import Any

import jax_ssp as ssp

WORKERS = 8
SLOW = 4.0  # how many times as long a slow device takes


def bursts(worker: int, clock: int, steps: int, rng: Any) -> float:
    """Each worker is slow in 2 of 20 clocks, one after the other."""
    return steps * (SLOW if (clock - 2 * worker) % 20 < 2 else 1.0)


DELAYS: dict[str, Any] = {
    "equal": ssp.delays.Constant(1.0),
    "slow for good": ssp.delays.PerWorker((1.0,) * (WORKERS - 1) + (SLOW,)),
    "exponential": ssp.delays.Exponential(1.0),
    "bursts of each": bursts,
    "bursts of one": ssp.delays.Straggler(ssp.delays.Constant(1.0), 0, SLOW, burst=2, every=20),
}
TITLES = {
    "equal": "equal devices",
    "slow for good": f"one of {WORKERS} takes {SLOW:g} times as long",
    "exponential": "passing slowdowns (exponential)",
}
