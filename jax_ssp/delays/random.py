"""Random delays of a step: each a distribution of positive times, independent from step to step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_ssp.checks import number, put
from jax_ssp.delays.base import LONGEST, Delay


@dataclass(frozen=True)
class Exponential(Delay):
    """Memoryless steps: P(T > t) = exp(−t / mean).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> round(Exponential(mean=2.0)(worker=0, clock=0, steps=1, rng=rng), 3)
        1.36

    Reference:
        Dutta et al. 2018, Slow and Stale Gradients Can Win the Race, arXiv:1803.01113.
    """

    mean: float = 1.0
    """Mean seconds of one local step."""

    def __post_init__(self) -> None:
        put(self, "mean", number, above=0, most=LONGEST)

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        return self.mean * _sum(rng.standard_exponential, steps)

    def ahead(self, worker: int, count: int, rng: np.random.Generator) -> list[float]:
        return (self.mean * rng.standard_exponential(count)).tolist()


@dataclass(frozen=True)
class ShiftedExponential(Delay):
    """A fixed part and a memoryless one: T = shift + Exp(mean), of mean `shift + mean`.

    Example:
        >>> delay = ShiftedExponential(shift=1.0, mean=2.0)
        >>> round(delay(worker=0, clock=0, steps=1, rng=np.random.default_rng(0)), 3)
        2.36

    Reference:
        Lee et al. 2015, Speeding Up Distributed Machine Learning Using Codes, arXiv:1512.02673.
    """

    shift: float
    """Seconds that one local step takes at least."""
    mean: float
    """Mean seconds of one local step beyond `shift`."""

    def __post_init__(self) -> None:
        put(self, "shift", number, least=0, most=LONGEST)
        put(self, "mean", number, above=0, most=LONGEST)

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        return steps * self.shift + self.mean * _sum(rng.standard_exponential, steps)

    def ahead(self, worker: int, count: int, rng: np.random.Generator) -> list[float]:
        return (self.shift + self.mean * rng.standard_exponential(count)).tolist()


@dataclass(frozen=True)
class Pareto(Delay):
    """Heavy-tailed steps: P(T > t) = (minimum / t)^shape for t ≥ minimum.

    The mean is minimum · shape / (shape − 1). With shape ≤ 1 it is infinite: allowed, but then no
    average over a run settles; with shape ≤ 2 the variance is infinite.

    Example:
        >>> delay = Pareto(minimum=1.0, shape=2.0)
        >>> round(delay(worker=0, clock=0, steps=1, rng=np.random.default_rng(0)), 3)
        1.405
    """

    minimum: float
    """Seconds that one local step takes at least."""
    shape: float
    """Tail exponent: the smaller, the heavier the tail."""

    def __post_init__(self) -> None:
        put(self, "minimum", number, above=0, most=LONGEST)
        put(self, "shape", number, above=0)

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        return self.minimum * (steps + _sum(rng.pareto, steps, self.shape))

    def ahead(self, worker: int, count: int, rng: np.random.Generator) -> list[float]:
        return (self.minimum * (1 + rng.pareto(self.shape, count))).tolist()


@dataclass(frozen=True)
class LogNormal(Delay):
    """Steps spread around a median by a factor: log T = log(median) + sigma · N(0, 1).

    The mean is median · exp(sigma² / 2).

    Example:
        >>> delay = LogNormal(median=2.0, sigma=0.5)
        >>> round(delay(worker=0, clock=0, steps=1, rng=np.random.default_rng(0)), 3)
        2.13
    """

    median: float
    """Median seconds of one local step."""
    sigma: float
    """Standard deviation of log seconds; 0 is constant."""

    def __post_init__(self) -> None:
        put(self, "median", number, above=0, most=LONGEST)
        put(self, "sigma", number, least=0)

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        return self.median * _sum(rng.lognormal, steps, 0.0, self.sigma)

    def ahead(self, worker: int, count: int, rng: np.random.Generator) -> list[float]:
        return (self.median * rng.lognormal(0.0, self.sigma, count)).tolist()


def _sum(draw: Callable[..., Any], steps: int, *parameters: float) -> float:
    """The sum of `steps` independent draws; the one draw of a one-step clock is a fast scalar."""
    return draw(*parameters) if steps == 1 else float(draw(*parameters, size=steps).sum())
