"""Delays without chance: of all workers alike, of each its own."""

from dataclasses import dataclass

import numpy as np

from jax_ssp.checks import number, put
from jax_ssp.delays.base import LONGEST, Delay, each_seconds, row_of


@dataclass(frozen=True)
class Constant(Delay):
    """Every step of every worker takes the same time.

    Example:
        >>> Constant(seconds=0.5)(worker=0, clock=7, steps=4, rng=np.random.default_rng(0))
        2.0
    """

    seconds: float = 1.0
    """Seconds of one local step."""

    def __post_init__(self) -> None:
        put(self, "seconds", number, least=0, most=LONGEST)

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        return steps * self.seconds

    def ahead(self, worker: int, count: int, rng: np.random.Generator) -> list[float]:
        return [self.seconds] * count


@dataclass(frozen=True)
class PerWorker(Delay):
    """Worker i always takes `seconds[i]`: devices of unequal speed.

    Example:
        >>> PerWorker(seconds=(1.0, 2.5))(worker=1, clock=0, steps=1, rng=np.random.default_rng(0))
        2.5
    """

    seconds: tuple[float, ...]
    """Seconds of one local step, one number for each worker."""

    def __post_init__(self) -> None:
        put(self, "seconds", each_seconds, "a tuple of seconds, one for each worker")

    def check(self, num_workers: int) -> None:
        row_of(self, self.seconds, num_workers - 1)

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        return steps * row_of(self, self.seconds, worker)

    def ahead(self, worker: int, count: int, rng: np.random.Generator) -> list[float]:
        return [row_of(self, self.seconds, worker)] * count
