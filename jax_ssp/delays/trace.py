"""Delays that were measured before."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from jax_ssp.checks import put, several, shown
from jax_ssp.delays.base import Delay, each_seconds, row_of


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
            each_seconds(
                f"FromTrace(seconds=...)[{worker}]", clocks, "a tuple of seconds, one a clock"
            )
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
        row_of(self, self.seconds, num_workers - 1)

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
        seconds = row_of(self, self.seconds, worker)
        return seconds[clock % len(seconds)]
