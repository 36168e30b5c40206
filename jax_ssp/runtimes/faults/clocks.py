"""What goes wrong in a worker's clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

from jax_ssp import checks
from jax_ssp.delays import LONGEST
from jax_ssp.runtimes.faults.base import JOIN, MERGE, PHASES, PUSH, SAVE, STEP, Act, Fate, Fault


@dataclass(frozen=True, repr=False)
class Crash(Fault):
    """The worker is lost when it would have finished the clock (`WorkerLost`); the others go on.

    In phase "push" its delta is computed and in the store by then, but nobody hears of it; in phase
    "join" it is lost as soon as it has joined.

    Args:
        back_after: so many seconds later (of the world) it joins again; None if it stays away.

    Raises:
        ValueError: if `back_after` is negative or not finite.

    Example:
        >>> Crash(worker=2, clock=5)
        Crash(worker=2, clock=5)
        >>> Crash(2, 5, back_after=3.0)
        Crash(worker=2, clock=5, back_after=3.0)
    """

    back_after: float | None = None

    phases: ClassVar[tuple[str, ...]] = (STEP, PUSH, JOIN)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "back_after", checks.optional, checks.number, least=0, most=LONGEST)

    def change(self, fate: Fate) -> Fate:
        return fate._replace(lost=self.phase, back_after=self.back_after)


@dataclass(frozen=True, repr=False)
class Hang(Fault):
    """The worker begins the clock, and does nothing any more until the run is over.

    Nobody is told: whoever waits for it waits on, on real devices until the run is interrupted, or
    the worker is evicted. In virtual time a run ends, "stopped", once nothing can happen any more.

    Example:
        >>> Hang(worker=0, clock=3)
        Hang(worker=0, clock=3)
    """

    def change(self, fate: Fate) -> Fate:
        return fate._replace(hangs=fate.hangs or self.phase)


@dataclass(frozen=True, repr=False)
class Slow(Act):
    """The clock takes longer; or a merge or a save, in real seconds.

    Args:
        seconds: how much longer, in the seconds of the world.

    Raises:
        ValueError: if `seconds` is negative or not finite.

    Example:
        >>> Slow(worker=1, clock=0, seconds=0.5)
        Slow(worker=1, clock=0, seconds=0.5)
    """

    seconds: float = 1.0

    phases: ClassVar[tuple[str, ...]] = (STEP, JOIN, MERGE, SAVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "seconds", checks.number, least=0, most=LONGEST)

    def act(self) -> None:
        time.sleep(self.seconds)

    def change(self, fate: Fate) -> Fate:
        return fate._replace(seconds=fate.seconds + self.seconds)


@dataclass(frozen=True, repr=False)
class NaN(Fault):
    """No number of the clock's delta is finite, as when its loss has overflowed.

    Example:
        >>> NaN(worker=1, clock=3)
        NaN(worker=1, clock=3)
    """

    phases: ClassVar[tuple[str, ...]] = (STEP,)
    timed: ClassVar[bool] = False  # the header of the tape names the clocks

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nth != 1:
            raise self._refused("nth", "it is always the first time, as the tape's header says")

    def change(self, fate: Fate) -> Fate:
        return fate._replace(nan=True)


@dataclass(frozen=True, repr=False)
class Raise(Act):
    """What the clock calls raises an error, which ends the run; or a merge or a save does.

    Args:
        error: what is raised.

    Raises:
        TypeError: if `error` is no exception.

    Example:
        >>> Raise(worker=0, clock=2, error=OSError("the disk is gone"))
        Raise(worker=0, clock=2, error=OSError('the disk is gone'))
        >>> Raise(phase="merge", nth=3, error=KeyError("w"))
        Raise(phase='merge', nth=3, error=KeyError('w'))
    """

    error: BaseException = field(default_factory=lambda: RuntimeError("an injected fault"))

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("Raise(error=...)", self.error, BaseException, "an exception")

    def act(self) -> None:
        raise self.error


@dataclass(frozen=True, repr=False)
class OutOfMemory(Act):
    """A device has no memory left: JAX's own error, RESOURCE_EXHAUSTED, is raised.

    Args:
        size: what there is no room for (bytes).

    Raises:
        ValueError: if `size` is not positive.

    Example:
        >>> OutOfMemory(worker=1, clock=4)
        OutOfMemory(worker=1, clock=4)
    """

    size: int = 1 << 36

    phases: ClassVar[tuple[str, ...]] = tuple(phase for phase in PHASES if phase != SAVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "size", checks.integer, least=1)

    def act(self) -> None:
        import jax

        raise jax.errors.JaxRuntimeError(
            f"RESOURCE_EXHAUSTED: Out of memory allocating {self.size} bytes."
        )
