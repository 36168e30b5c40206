"""Delay models: how long a clock of a worker takes, in seconds.

A delay model is a callable `(worker, clock, steps, rng) -> seconds`. Its parameters are seconds of
ONE local step; a clock of `steps` local steps is the sum of that many independent draws. Only
`FromTrace` differs: what was measured is a whole clock. `rng` is a generator of the worker's own,
asked once a clock in the order of the clocks, so what is drawn for (worker, clock) does not depend
on the schedule that the draws lead to.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np

from jax_ssp.checks import function, integer, number, optional, put, several, shown

__all__ = [
    "Constant",
    "Delay",
    "DelayModel",
    "Exponential",
    "FromTrace",
    "LogNormal",
    "Pareto",
    "PerWorker",
    "ShiftedExponential",
    "Straggler",
]

CALL = "(worker, clock, steps, rng) -> seconds"
"""How a delay model is called."""
LONGEST = 1e18
"""The longest that anything may take (seconds): sums of such times are finite still."""

Row = TypeVar("Row")


class Delay(abc.ABC):
    """Base class of the delay models; any callable of the same signature will do as well."""

    @abc.abstractmethod
    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        """How long a clock takes.

        Args:
            worker: the worker, counted from 0.
            clock: the clock, counted from 0.
            steps: local steps in this clock, at least 1.
            rng: the worker's own random generator.

        Returns:
            Seconds for the whole clock.
        """

    def check(self, num_workers: int) -> None:
        """Raise ValueError, naming the remedy, if it does not fit a run of so many workers."""

    def ahead(self, rng: np.random.Generator, count: int) -> list[float] | None:
        """What `count` calls for clocks of one step would give; None if that depends on more.

        Only for speed: scalar draws cost more than all else that a simulated clock does.
        """
        return None


# What a runtime takes: a `Delay`, or any callable of that signature. To a type checker it is `Any`,
# so that the command line shows the fields of the model that a config names, whatever it is.
DelayModel: TypeAlias = Any


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
        put(self, "seconds", _each, "a tuple of seconds, one for each worker")

    def check(self, num_workers: int) -> None:
        _row(self, self.seconds, num_workers - 1)

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        return steps * _row(self, self.seconds, worker)


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

    def ahead(self, rng: np.random.Generator, count: int) -> list[float]:
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

    def ahead(self, rng: np.random.Generator, count: int) -> list[float]:
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

    def ahead(self, rng: np.random.Generator, count: int) -> list[float]:
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

    def ahead(self, rng: np.random.Generator, count: int) -> list[float]:
        return (self.median * rng.lognormal(0.0, self.sigma, count)).tolist()


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


@dataclass(frozen=True)
class FromTrace(Delay):
    """Measured clocks, played back: `seconds[worker][clock]`, again from the start when used up.

    The numbers are seconds of a whole clock, so `steps` is ignored.

    Example:
        >>> delay = FromTrace(seconds=((0.5, 0.75), (2.0,)))
        >>> [delay(worker=0, clock=c, steps=1, rng=np.random.default_rng(0)) for c in range(3)]
        [0.5, 0.75, 0.5]
    """

    seconds: tuple[tuple[float, ...], ...]
    """Seconds of each clock, one tuple for each worker."""

    def __post_init__(self) -> None:
        put(self, "seconds", several, "a tuple of tuples of seconds, one for each worker")
        rows = [
            _each(f"FromTrace(seconds=...)[{worker}]", clocks, "a tuple of seconds, one a clock")
            for worker, clocks in enumerate(self.seconds)
        ]
        object.__setattr__(self, "seconds", tuple(rows))
        for worker, clocks in enumerate(rows):
            if not clocks:
                raise ValueError(
                    f"`FromTrace(seconds=...)` must have a clock of every worker, got none of "
                    f"worker {worker}."
                )

    def check(self, num_workers: int) -> None:
        _row(self, self.seconds, num_workers - 1)

    @classmethod
    def from_schedule(cls, schedule: np.ndarray) -> Self:
        """The delays of an earlier run, from its schedule.

        Args:
            schedule: structured array with the columns `worker`, `clock` and, in seconds, `start`
                and `finish`; one row a clock, in any order.

        Returns:
            A model in which clock c of a worker takes its c-th row's finish − start.

        Raises:
            ValueError: if a column is missing, or a worker below the highest one has no row.

        Example:
            >>> columns = [("worker", int), ("clock", int), ("start", float), ("finish", float)]
            >>> FromTrace.from_schedule(np.array([(0, 1, 1.5, 2.0), (0, 0, 0.0, 1.5)], columns))
            FromTrace(seconds=((1.5, 0.5),))
        """
        names = getattr(getattr(schedule, "dtype", None), "names", None) or ()
        missing = [name for name in ("worker", "clock", "start", "finish") if name not in names]
        if missing:
            raise ValueError(
                f"`FromTrace.from_schedule(schedule)` must be given the columns {missing}, got "
                f"{list(names) or shown(schedule)}."
            )
        rows = schedule[np.lexsort((schedule["clock"], schedule["worker"]))]
        ends = np.cumsum(np.bincount(rows["worker"]))
        clocks = np.split(rows["finish"] - rows["start"], ends[:-1])
        return cls(tuple(tuple(seconds.tolist()) for seconds in clocks))

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        seconds = _row(self, self.seconds, worker)
        return seconds[clock % len(seconds)]


def _sum(draw: Callable[..., Any], steps: int, *parameters: float) -> float:
    """The sum of `steps` independent draws; the one draw of a one-step clock is a fast scalar."""
    return draw(*parameters) if steps == 1 else float(draw(*parameters, size=steps).sum())


def _row(delay: Delay, rows: tuple[Row, ...], worker: int) -> Row:
    """What `rows`, one for each worker, holds for `worker`."""
    if not 0 <= worker < len(rows):
        raise ValueError(
            f"`{type(delay).__name__}(seconds=...)` must have an entry for worker {worker}, got "
            f"{len(rows)} entries; give one for each worker."
        )
    return rows[worker]


def _each(field: str, value: Any, must: str) -> tuple[float, ...]:
    """Some seconds."""
    listed = several(field, value, must)
    return tuple(
        number(f"{field}[{index}]", each, least=0, most=LONGEST)
        for index, each in enumerate(listed)
    )


def check_delay(delay: DelayModel, num_workers: int) -> None:
    """Raise ValueError if a delay model has no answer for one of so many workers, or for nobody."""
    if isinstance(delay, Delay):
        delay.check(num_workers)
