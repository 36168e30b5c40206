"""How many local steps a clock has: H, fixed, or by a schedule.

A schedule is a frozen dataclass, like a policy, and decides for every policy that has no rule of
its own. In `train`, `local_steps=4` is `local_steps=Fixed(4)`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Self

from jax_ssp.checks import MOST_STEPS, integer, put
from jax_ssp.policies.base import begun, remembered
from jax_ssp.policies.view import Delta, View


@dataclass(frozen=True)
class LocalSteps:
    """Base of all schedules: one step a clock.

    Subclass it as a frozen dataclass, and say `at`, or `steps` where H depends on the run.

    Example:
        >>> import jax_ssp as ssp
        >>> @dataclass(frozen=True)
        ... class Twice(ssp.LocalSteps):
        ...     usual = (1, 2)
        ...
        ...     def at(self, clock: int) -> int:
        ...         return 1 + clock % 2
        >>> clockwork = ssp.Virtual(num_workers=1, compute=False)
        >>> run = ssp.train(local_steps=Twice(), runtime=clockwork, num_clocks=4)
        >>> run.schedule["steps"].tolist()
        [1, 2, 1, 2]
    """

    @property
    def usual(self) -> tuple[int, ...]:
        """The numbers of steps that most clocks have; what runs them is compiled before the start.

        The last is the largest that any clock has.
        """
        return (1,)

    def begin(self) -> Self:
        """The copy of this schedule for one run, with nothing remembered yet."""
        return begun(self)

    def steps(self, view: View, worker: int) -> int:
        """H for the clock that this worker is to start, number `view.clock(worker)` (steps)."""
        return self.at(view.clock(worker)) or 1

    def at(self, clock: int) -> int | None:
        """H of this clock (steps), if its number alone decides that; else None.

        Of a clock whose H is not known before, no more than 1 step is run ahead.
        """
        return None

    def pushed(self, view: View, delta: Delta, norm: float) -> None:
        """See `Policy.pushed`."""


@dataclass(frozen=True)
class Fixed(LocalSteps):
    """The same number of local steps in every clock.

    Args:
        h: H (steps).

    Raises:
        ValueError: if `h` is less than 1.

    Example:
        >>> Fixed(4).usual
        (4,)

    Reference:
        Stich 2019, "Local SGD converges fast and communicates little", arXiv:1805.09767.
    """

    h: int = 1

    def __post_init__(self) -> None:
        put(self, "h", integer, least=1, most=MOST_STEPS)

    @property
    def usual(self) -> tuple[int, ...]:
        return (self.h,)

    def at(self, clock: int) -> int:
        return self.h


def as_schedule(local_steps: object, field: str = "local_steps") -> LocalSteps:
    """The schedule that `local_steps` of a run means.

    Args:
        local_steps: H, or a schedule of it.
        field: what a message calls it.

    Raises:
        TypeError: if it is neither an integer nor a schedule.
        ValueError: if it is less than 1.
    """
    if isinstance(local_steps, LocalSteps):
        return local_steps
    must = "an integer, or a schedule such as `ssp.DyLU(h=8)`"
    return Fixed(integer(field, local_steps, least=1, most=MOST_STEPS, must=must))


@dataclass(frozen=True)
class PostLocal(LocalSteps):
    """Exchange every step at first, and every H steps later.

    Args:
        h: H of the later clocks (steps).
        switch: clocks with one step before that.

    Raises:
        ValueError: if `h` or `switch` is less than 1.

    Example:
        >>> PostLocal(h=8, switch=100).usual
        (1, 8)

    Reference:
        Lin, Stich, Patel, Jaggi 2020, "Don't use large mini-batches, use local SGD",
        arXiv:1808.07217 (post-local SGD).
    """

    h: int = 4
    switch: int = 50

    def __post_init__(self) -> None:
        put(self, "h", integer, least=1, most=MOST_STEPS)
        put(self, "switch", integer, least=1)

    @property
    def usual(self) -> tuple[int, ...]:
        return (1, self.h)

    def at(self, clock: int) -> int:
        return 1 if clock < self.switch else self.h


@dataclass(frozen=True)
class DyLU(LocalSteps):
    """Dynamic local updates: the fastest worker makes H steps, a slower one fewer in proportion.

    With v the steps a second of a worker, H_i = max(1, H v_i / max_j v_j), rounded to the nearest
    whole number, so that clocks of unequal devices take about the same time. v is measured over
    the worker's last clocks: their steps over the seconds for which they were computed, without
    what travelled over an `ssp.Network`. A worker that is not measured yet makes H.

    One clock says little where step times vary: its time is off by their spread over the root of
    its steps, and the largest of several such estimates is too large. A long memory makes both
    small; a short one follows a device sooner whose speed changes for good. (The paper rounds down,
    which takes a step from every worker but the one that looks fastest, however equal they are.)

    Args:
        h: H of the fastest worker (steps).
        memory: how many clocks of a worker are remembered.

    Raises:
        TypeError: if `h` or `memory` is not an integer.
        ValueError: if `h` or `memory` is less than 1.

    Example:
        >>> import jax_ssp as ssp
        >>> runtime = ssp.Virtual(2, ssp.delays.PerWorker((1.0, 2.5)), compute=False)
        >>> run = ssp.train(policy=ssp.ASP(), runtime=runtime, num_clocks=4, local_steps=DyLU(h=10))
        >>> slow = run.schedule[run.schedule["worker"] == 1]
        >>> (slow["finish"] - slow["start"]).tolist()  # 10 steps, then 4 in the time of 10
        [25.0, 10.0, 10.0, 10.0]

    Reference:
        Liu, Chhaparia, Douillard et al. 2024, "Asynchronous local-SGD training for language
        modeling", arXiv:2401.09135, section 5.
    """

    h: int = 8
    memory: int = 32
    _clocks: dict[int, deque[tuple[int, float]]] = remembered(dict)  # by worker: steps, seconds
    _paces: dict[int, float] = remembered(dict)  # by worker, seconds a step over all of these

    def __post_init__(self) -> None:
        put(self, "h", integer, least=1, most=MOST_STEPS)
        put(self, "memory", integer, least=1)

    @property
    def usual(self) -> tuple[int, ...]:
        return (self.h,)

    def pushed(self, view: View, delta: Delta, norm: float) -> None:
        worker = delta.worker
        clocks = self._clocks.setdefault(worker, deque(maxlen=self.memory))
        clocks.append((view.steps(worker), view.computing(worker)))
        steps, seconds = map(sum, zip(*clocks, strict=True))
        self._paces[worker] = seconds / steps

    def steps(self, view: View, worker: int) -> int:
        own = self._paces.get(worker, 0.0)
        if own <= 0:
            return self.h
        fastest = min(pace for other, pace in self._paces.items() if other in view.workers)
        # Half a step is rounded up, whatever floating point took from it.
        return max(1, int(self.h * fastest / own + 0.5 + 1e-9))
