"""Faults that are drawn: with a mean time between them, from a seed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from jax_ssp import checks
from jax_ssp.delays import LONGEST
from jax_ssp.runtimes.faults.base import PUSH, SAVE, STEP, Fault
from jax_ssp.runtimes.faults.known import kind_named, name_of

MOST_FAULTS = 10**5  # that are expected of one worker


class Schedule(ABC):
    """Faults that are known once the number of workers is."""

    @abstractmethod
    def drawn(self, num_workers: int) -> Sequence[Fault]:
        """The faults of a run with so many workers; the same each time."""


@dataclass(frozen=True)
class Poisson(Schedule):
    """Faults with exponential times between them, drawn before the run: same seed, same faults.

    Those of workers strike each of them with this mean time, from a stream of its own; those of the
    process (`Kill`, `Terminate`, `Stopped`, `HoldLock`) strike the run, which each of the first two
    ends for one life.

    Args:
        mtbf: mean time between failures, of one worker or of the process, in units of `per`.
        kinds: classes of faults, or their names; each fault is one of them.
        per: "seconds" of the world, or "clocks" of the worker.
        seed: of the draws.
        until: no fault is later, in units of `per`; by default 100 times `mtbf`.
        back_after: what that is of the faults that have it (`Crash`, `Late`).
        seconds: what that is of the faults that have it, such as `Slow`; None for their defaults.

    Raises:
        ValueError: if a number cannot be what it is, there is no such kind, or it cannot be drawn.
        TypeError: if `kinds` is no list of kinds.

    Example:
        >>> schedule = Poisson(mtbf=4.0, kinds=("nan", "slow"), per="clocks", until=12)
        >>> for fault in schedule.drawn(num_workers=2):
        ...     print(fault)
        Slow(worker=0, clock=9)
        NaN(worker=1, clock=0)
        NaN(worker=1, clock=10)
    """

    mtbf: float
    kinds: Sequence[Any] = ("crash",)
    per: str = "seconds"
    seed: int = 0
    until: float | None = None
    back_after: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        checks.put(self, "mtbf", checks.number, above=0, most=LONGEST)
        checks.put(self, "per", checks.choice, ("seconds", "clocks"))
        checks.put(self, "seed", checks.seed)
        checks.put(self, "until", checks.optional, checks.number, least=0, most=LONGEST)
        for name in ("back_after", "seconds"):
            checks.put(self, name, checks.optional, checks.number, least=0, most=LONGEST)
        checks.put(self, "kinds", self._named)
        if self._until / self.mtbf > MOST_FAULTS:
            raise ValueError(
                f"`Poisson(mtbf=..., until=...)` are {MOST_FAULTS} faults of a worker at most, got "
                f"mtbf={self.mtbf}, until={self.until}."
            )

    def _named(self, field: str, kinds: Any) -> tuple[str, ...]:
        """The names of kinds, if all can be drawn."""
        given, got = checks.several(field, kinds, "a list of kinds"), f"got {checks.shown(kinds)}"
        if not all(isinstance(each, str | type) for each in given):
            raise TypeError(f'`{field}` must hold kinds of faults, such as "crash", {got}.')
        found = [kind_named(field, each) for each in given]
        if not found:
            raise ValueError(f'`{field}` must hold at least one kind, such as "crash", {got}.')
        for kind in found:
            in_clock = STEP in kind.phases or PUSH in kind.phases
            if not in_clock or (SAVE in kind.phases and len(kind.phases) == 1):
                raise ValueError(f"`{field}`: {name_of(kind)} strikes saves, by their number.")
            if self.per == "seconds" and not kind.timed:
                raise ValueError(
                    f'`{field}`: {name_of(kind)} strikes clocks and no moments; give `per="clocks"`'
                    " and `mtbf` in clocks."
                )
            if self.per == "clocks" and kind.of_process:
                raise ValueError(
                    f"`{field}`: {name_of(kind)} strikes the process, which has no clocks; give "
                    '`per="seconds"` and `mtbf` in seconds.'
                )
        return tuple(map(name_of, found))

    @property
    def _until(self) -> float:
        return 100 * self.mtbf if self.until is None else self.until

    def drawn(self, num_workers: int) -> list[Fault]:
        kinds = [kind_named("kinds", kind) for kind in self.kinds]
        of_workers = [kind for kind in kinds if not kind.of_process]
        of_process = [kind for kind in kinds if kind.of_process]
        found: list[Fault] = []
        if of_workers:
            for worker in range(num_workers):
                found += self._stream(worker + 1, of_workers, worker)
        if of_process:
            found += self._stream(0, of_process, None)
        return found

    def _stream(
        self, number: int, kinds: Sequence[type[Fault]], worker: int | None
    ) -> Iterator[Fault]:
        rng = np.random.default_rng((self.seed, number))
        when, life, before = 0.0, 0, -1
        while True:
            when += float(rng.exponential(self.mtbf))
            kind = kinds[int(rng.integers(len(kinds)))]
            if when > self._until:
                return
            given = self._given(kind, life)
            life += "life" in given
            if self.per == "seconds":
                yield kind(worker, at=when, **given)
            elif (clock := math.floor(when)) > before:
                before = clock
                yield kind(worker, clock, **given)

    def _given(self, kind: type[Fault], life: int) -> dict[str, Any]:
        said = {"back_after": self.back_after, "seconds": self.seconds, "life": life}
        names = {each.name for each in fields(kind)}
        return {name: said[name] for name in said if name in names and said[name] is not None}


def expanded(faults: Iterable[Fault | Schedule], num_workers: int) -> list[Fault]:
    """All faults of a run, those of schedules among them."""
    found: list[Fault] = []
    for each in faults:
        found += each.drawn(num_workers) if isinstance(each, Schedule) else [each]
    return found
