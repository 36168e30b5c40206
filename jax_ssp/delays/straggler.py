"""Workers that are slow now and then, or always, on top of any other delay."""

from dataclasses import dataclass, field

import numpy as np

from jax_ssp.checks import function, integer, number, optional, put
from jax_ssp.delays.base import CALL, LONGEST, Delay, DelayModel, check_delay
from jax_ssp.delays.fixed import Constant


@dataclass(frozen=True)
class Straggler(Delay):
    """One worker is `factor` times slower than `base`: always, or in bursts.

    With `burst` and `every`, the clocks c with c mod every < burst are the slow ones.

    Example:
        >>> delay = Straggler(Constant(1.0), worker=2, factor=4.0, burst=1, every=3)
        >>> rng = np.random.default_rng(0)
        >>> [delay(worker=2, clock=clock, steps=1, rng=rng) for clock in range(4)]
        [4.0, 1.0, 1.0, 4.0]
    """

    base: DelayModel = field(default_factory=Constant)
    """The delay model of all workers."""
    worker: int = 0
    """The worker that is slowed."""
    factor: float = 4.0
    """By how much it is slowed."""
    burst: int | None = None
    """Clocks in a burst; without it the worker is always slow."""
    every: int | None = None
    """Clocks from the start of one burst to the start of the next."""

    def __post_init__(self) -> None:
        put(self, "base", function, CALL)
        put(self, "worker", integer, least=0)
        put(self, "factor", number, above=0, most=LONGEST)
        put(self, "burst", optional, integer, least=1)
        put(self, "every", optional, integer, least=1)
        got = f"got burst={self.burst}, every={self.every}"
        if (self.burst is None) != (self.every is None):
            raise ValueError(
                f"`Straggler(burst=..., every=...)` must be given together or not at all, {got}."
            )
        if self.burst is not None and self.every is not None and self.burst > self.every:
            raise ValueError(
                f"`Straggler(burst=..., every=...)` must have 1 <= burst <= every, {got}."
            )

    def check(self, num_workers: int) -> None:
        if self.worker >= num_workers:
            raise ValueError(
                f"`Straggler(worker={self.worker})` slows nobody: the workers are numbered from 0 "
                f"to {num_workers - 1}."
            )
        check_delay(self.base, num_workers)

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        seconds = self.base(worker, clock, steps, rng)
        if worker != self.worker:
            return seconds
        if self.burst is not None and self.every is not None and clock % self.every >= self.burst:
            return seconds
        return self.factor * seconds
