"""Delays that were measured before."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from jax_ssp.checks import LARGEST, integer, put, several, shown
from jax_ssp.delays.base import Delay, each_seconds, row_of

SECONDS = "a tuple of tuples of seconds, one for each worker"
STEPS = "a tuple of tuples of steps, like `seconds`"


@dataclass(frozen=True)
class FromTrace(Delay):
    """Measured clocks, played back: `seconds[worker][clock]`, again from the start when used up.

    The numbers are seconds of a whole clock. Where `steps` says how many local steps each of them
    had, a clock of another number is predicted from them: with s_w seconds a step of worker w on
    average, the measured clock c of h steps that took t seconds becomes, for H steps,

        H s_w + sqrt(H / h) (t - h s_w), and never less than 0:

    so the mean grows with H, the jitter with its root, as of independent steps. A clock of as many
    steps as the measured one takes what that took. Without `steps`, every clock does.

    Raises:
        ValueError: if a worker has no clock, or `steps` does not go with `seconds`.

    Example:
        >>> delay = FromTrace(seconds=((0.5, 0.75), (2.0,)))
        >>> [delay(worker=0, clock=c, steps=1, rng=np.random.default_rng(0)) for c in range(3)]
        [0.5, 0.75, 0.5]
        >>> delay = FromTrace(seconds=((1.5, 2.5),), steps=((1, 1),))
        >>> [delay(worker=0, clock=c, steps=4, rng=np.random.default_rng(0)) for c in range(2)]
        [7.0, 9.0]
    """

    seconds: tuple[tuple[float, ...], ...]
    """Seconds of each clock, one tuple for each worker."""
    steps: tuple[tuple[int, ...], ...] = ()
    """Local steps of each clock, one tuple for each worker; without any, H cannot be another."""

    def __post_init__(self) -> None:
        put(self, "seconds", several, SECONDS)
        put(self, "steps", several, STEPS)
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
        if self.steps:
            object.__setattr__(self, "steps", self._checked_steps())

    def _checked_steps(self) -> tuple[tuple[int, ...], ...]:
        made = tuple(
            tuple(
                integer(f"FromTrace(steps=...)[{worker}][{clock}]", each, least=1, most=LARGEST)
                for clock, each in enumerate(
                    several(f"FromTrace(steps=...)[{worker}]", clocks, "a tuple of steps")
                )
            )
            for worker, clocks in enumerate(self.steps)
        )
        if [len(each) for each in made] != [len(each) for each in self.seconds]:
            raise ValueError(
                "`FromTrace(steps=...)` must have a number for each of `seconds`, got "
                f"{[len(each) for each in made]} of them for "
                f"{[len(each) for each in self.seconds]}; leave it out, or give one for each."
            )
        return made

    def check(self, num_workers: int) -> None:
        row_of(self, self.seconds, num_workers - 1)

    @cached_property
    def step_seconds(self) -> tuple[float, ...]:
        """Of each worker, the mean seconds of a step; of a clock, where `steps` is not known."""
        steps = self.steps or tuple((1,) * len(each) for each in self.seconds)
        return tuple(
            math.fsum(seconds) / sum(made)
            for seconds, made in zip(self.seconds, steps, strict=True)
        )

    @classmethod
    def from_schedule(cls, schedule: np.ndarray) -> Self:
        """The delays of an earlier run, from its schedule.

        What the network took is none of it, where the schedule knows that: it has the column
        `computing` then, seconds for which a clock was computed. With a column `steps`, H can be
        another one; clocks that were cancelled (0 steps) are left out then.

        Args:
            schedule: structured array with the columns `worker`, `clock` and, in seconds, `start`
                and `finish`, or `computing` instead of these two; one row a clock, in any order.
                That of a `Result` has all of them.

        Returns:
            A model in which clock c of a worker takes what its c-th row took.

        Raises:
            ValueError: if a column is missing, or a worker below the highest one has no row.

        Example:
            >>> columns = [("worker", int), ("clock", int), ("start", float), ("finish", float)]
            >>> FromTrace.from_schedule(np.array([(0, 1, 1.5, 2.0), (0, 0, 0.0, 1.5)], columns))
            FromTrace(seconds=((1.5, 0.5),))
        """
        names = getattr(getattr(schedule, "dtype", None), "names", None) or ()
        times = ("computing",) if "computing" in names else ("start", "finish")
        missing = [name for name in ("worker", "clock", *times) if name not in names]
        if missing:
            raise ValueError(
                f"`FromTrace.from_schedule(schedule)` must be given the columns {missing}, got "
                f"{list(names) or shown(schedule)}."
            )
        rows = schedule[np.lexsort((schedule["clock"], schedule["worker"]))]
        rows = rows[rows["steps"] > 0] if "steps" in names else rows
        ends = np.cumsum(np.bincount(rows["worker"]))[:-1]
        took = rows["computing"] if "computing" in names else rows["finish"] - rows["start"]
        seconds = tuple(tuple(each.tolist()) for each in np.split(np.maximum(took, 0.0), ends))
        if "steps" not in names:
            return cls(seconds)
        return cls(seconds, tuple(tuple(each.tolist()) for each in np.split(rows["steps"], ends)))

    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        seconds = row_of(self, self.seconds, worker)
        number = clock % len(seconds)
        took = seconds[number]
        made = self.steps[worker][number] if self.steps else steps
        if made == steps:
            return took
        mean = self.step_seconds[worker]
        return max(0.0, steps * mean + math.sqrt(steps / made) * (took - made * mean))

    def __repr__(self) -> str:
        steps = f", steps={self.steps}" if self.steps else ""
        return f"{type(self).__name__}(seconds={self.seconds}{steps})"
