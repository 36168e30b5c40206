"""What both migrations share: the devices they run on, and the loop's view of the workers' data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import jax_ssp as ssp

WORKERS = 4


@dataclass(frozen=True)
class InTurn(ssp.delays.Delay):
    """Equal workers, but each is slow for a while, one after the other.

    A step takes 0.8 s and an exponential of mean 0.2 s; worker i is slow in the clocks c with
    (c - shift * i) mod every < burst.

    Example:
        >>> delay = InTurn(factor=4.0, burst=1, every=4, shift=1)
        >>> rng = np.random.default_rng(0)
        >>> [delay(worker=2, clock=clock, steps=1, rng=rng) > 3 for clock in range(4)]
        [False, False, True, False]
    """

    factor: float = 4.0
    """By how much a worker is slowed in its turn."""
    burst: int = 1
    """Clocks that it is slow for."""
    every: int = 10
    """Clocks from one turn of a worker to its next."""
    shift: int = 2
    """Clocks from the turn of a worker to that of the next one."""

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        slow = (clock - self.shift * worker) % self.every < self.burst
        seconds = 0.8 * steps + 0.2 * float(rng.standard_exponential(steps).sum())
        return self.factor * seconds if slow else seconds


def whole_batches(shards: ssp.data.Shards) -> Iterator[Any]:
    """The batches of all workers put together, so that a loop sees the examples that they see."""
    workers = [shards(worker) for worker in range(shards.num_workers)]
    while True:
        yield jax.tree.map(lambda *parts: np.concatenate(parts), *map(next, workers))
