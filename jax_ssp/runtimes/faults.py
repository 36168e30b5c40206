"""Faults as data: what is to go wrong, in which clock of which worker.

    ssp.Virtual(num_workers=4, faults=[ssp.faults.Crash(worker=2, clock=5)])

Every world plays them, so what a policy makes of a lost worker, or of one that hangs, can be tried
before it happens. A replay repeats them: that a worker was lost is on the tape, when a slow clock
ended too, and deltas that were not finite are named in its header.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from jax_ssp import checks
from jax_ssp.controller.commands import StartClock
from jax_ssp.delays import LONGEST

__all__ = ["Crash", "Fault", "Hang", "NaN", "Raise", "Slow"]


class Fate(NamedTuple):
    """What becomes of a clock.

    Attributes:
        lost: its worker is lost at its end, in place of a push.
        hangs: its worker does nothing any more.
        seconds: it takes so much longer.
        nan: no number of its delta is finite.
        error: what is raised in it.
    """

    lost: bool = False
    hangs: bool = False
    seconds: float = 0.0
    nan: bool = False
    error: BaseException | None = None


FINE = Fate()

Fates: TypeAlias = Mapping[tuple[int, int], Fate]
"""By worker and clock; all others are fine."""

NO_FAULTS: Fates = MappingProxyType({})


def fate_of(fates: Fates, start: StartClock) -> Fate:
    """What becomes of a clock that is started."""
    return fates.get((start.worker, start.clock), FINE)


@dataclass(frozen=True)
class Fault(ABC):
    """Something that goes wrong.

    Args:
        worker: whose.
        clock: in which of its clocks; if that is never begun, nothing goes wrong.

    Raises:
        ValueError: if one is negative.
    """

    worker: int
    clock: int

    def __post_init__(self) -> None:
        checks.put(self, "worker", checks.integer, least=0)
        checks.put(self, "clock", checks.integer, least=0)

    @abstractmethod
    def change(self, fate: Fate) -> Fate:
        """The fate of a clock with this fault, given its fate without."""


@dataclass(frozen=True)
class Crash(Fault):
    """The worker is lost when it would have finished the clock (`WorkerLost`); the others go on.

    Example:
        >>> Crash(worker=2, clock=5)
        Crash(worker=2, clock=5)
    """

    def change(self, fate: Fate) -> Fate:
        return fate._replace(lost=True)


@dataclass(frozen=True)
class Hang(Fault):
    """The worker begins the clock, and does nothing any more until the run is over.

    Nobody is told: whoever waits for it waits on, on real devices until the run is interrupted. In
    virtual time a run ends, "stopped", once nothing can happen any more.

    Example:
        >>> Hang(worker=0, clock=3)
        Hang(worker=0, clock=3)
    """

    def change(self, fate: Fate) -> Fate:
        return fate._replace(hangs=True)


@dataclass(frozen=True)
class Slow(Fault):
    """The clock takes longer.

    Args:
        seconds: how much longer, in the seconds of the world.

    Raises:
        ValueError: if `seconds` is negative or not finite.

    Example:
        >>> Slow(worker=1, clock=0, seconds=0.5)
        Slow(worker=1, clock=0, seconds=0.5)
    """

    seconds: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "seconds", checks.number, least=0, most=LONGEST)

    def change(self, fate: Fate) -> Fate:
        return fate._replace(seconds=fate.seconds + self.seconds)


@dataclass(frozen=True)
class NaN(Fault):
    """No number of the clock's delta is finite, as when its loss has overflowed.

    Example:
        >>> NaN(worker=1, clock=3)
        NaN(worker=1, clock=3)
    """

    def change(self, fate: Fate) -> Fate:
        return fate._replace(nan=True)


@dataclass(frozen=True)
class Raise(Fault):
    """What the clock calls raises an error, which ends the run.

    Args:
        error: what is raised.

    Raises:
        TypeError: if `error` is no exception.

    Example:
        >>> Raise(worker=0, clock=2, error=OSError("the disk is gone"))
        Raise(worker=0, clock=2, error=OSError('the disk is gone'))
    """

    error: BaseException = field(default_factory=lambda: RuntimeError("an injected fault"))

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("Raise(error=...)", self.error, BaseException, "an exception")

    def change(self, fate: Fate) -> Fate:
        return fate._replace(error=self.error)


def check_faults(field: str, faults: Any) -> tuple[Fault, ...]:
    """The faults of a runtime, if they are such."""
    found = checks.several(field, faults, "a list of faults, such as `[ssp.faults.Crash(2, 5)]`")
    for number, fault in enumerate(found):
        checks.instance(f"{field}[{number}]", fault, Fault, "a fault, such as `ssp.faults.Crash`")
    return found


def check_workers(runtime: str, faults: Iterable[Fault], num_workers: int) -> None:
    """Raise ValueError if a fault is of a worker that the run does not have."""
    for fault in faults:
        if fault.worker >= num_workers:
            raise ValueError(
                f"`{runtime}(faults=...)` names worker {fault.worker} ({fault}), but there are "
                f"{num_workers} workers, counted from 0. Name one of them, or ask for more."
            )


def fates(faults: Iterable[Fault]) -> dict[tuple[int, int], Fate]:
    """What becomes of which clock.

    Example:
        >>> fates([Slow(0, 3, seconds=1.0), NaN(0, 3)])[0, 3]
        Fate(lost=False, hangs=False, seconds=1.0, nan=True, error=None)
    """
    found: dict[tuple[int, int], Fate] = {}
    for fault in faults:
        where = fault.worker, fault.clock
        found[where] = fault.change(found.get(where, FINE))
    return found


def not_finite(faults: Iterable[Fault]) -> dict[str, list[list[int]]]:
    """For the header of a tape, which deltas were made not finite, if any were.

    Example:
        >>> not_finite([NaN(1, 3), Crash(0, 2)]), not_finite([])
        ({'nan': [[1, 3]]}, {})
    """
    found = sorted([fault.worker, fault.clock] for fault in faults if isinstance(fault, NaN))
    return {"nan": found} if found else {}
