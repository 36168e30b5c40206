"""What a fault is: where it strikes, and what becomes of a clock that it strikes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import ClassVar, NamedTuple

from jax_ssp import checks
from jax_ssp.delays import LONGEST

STEP, PUSH, MERGE, SAVE, JOIN = "step", "push", "merge", "save", "join"
INJECTED = "an injected fault"  # why a worker is lost
PHASES = (STEP, PUSH, MERGE, SAVE, JOIN)


class Fate(NamedTuple):
    """What becomes of a clock.

    Attributes:
        lost: the phase in which its worker is lost, in place of a push; empty if it is not.
        hangs: the phase in which its worker does nothing any more; empty if it goes on.
        seconds: it takes so much longer.
        nan: no number of its delta is finite.
        in_step: what is done in it, in this order.
        in_push: what is done when its delta is in the store and nobody has heard of it.
        again: so many seconds after its push it is reported again, for each.
        late: so many seconds after its worker is lost, or it is cancelled, its push is reported.
        back_after: so many seconds after its worker is lost, the worker joins again.
    """

    lost: str = ""
    hangs: str = ""
    seconds: float = 0.0
    nan: bool = False
    in_step: tuple[Act, ...] = ()
    in_push: tuple[Act, ...] = ()
    again: tuple[float, ...] = ()
    late: float | None = None
    back_after: float | None = None


FINE = Fate()


@dataclass(frozen=True, repr=False)
class Fault(ABC):
    """Something that goes wrong, once.

    Args:
        worker: whose.
        clock: in which of its clocks; if that is never begun, nothing goes wrong.
        phase: in which phase: "step" (while it computes) and "push" (its delta is computed, and
            nobody has heard of it) are phases of a worker's clock; "join" is the first clock after
            a worker has joined; "merge" and "save" are those of the run, and of no worker.
        nth: which time, counted from 1: that the worker runs this clock (it may be lost in it, and
            come back), that it joins, that the run merges or saves.
        at: when, in place of a clock (seconds of the world since the run began): what strikes a
            worker then strikes the clock that it runs, at its end.

    Raises:
        ValueError: if one is negative, or they do not go together.
    """

    worker: int | None = None
    clock: int | None = None
    phase: str = field(default=STEP, kw_only=True)
    nth: int = field(default=1, kw_only=True)
    at: float | None = field(default=None, kw_only=True)

    phases: ClassVar[tuple[str, ...]] = (STEP, JOIN)
    """In which it can strike."""
    timed: ClassVar[bool] = True
    """Whether it can strike at a time."""
    of_process: ClassVar[bool] = False
    """Whether it strikes the whole process, so that at a time it needs no worker."""

    def __post_init__(self) -> None:
        checks.put(self, "worker", checks.optional, checks.integer, least=0)
        checks.put(self, "clock", checks.optional, checks.integer, least=0)
        checks.put(self, "phase", checks.choice, self.phases)
        checks.put(self, "nth", checks.integer, least=1)
        checks.put(self, "at", checks.optional, checks.number, least=0, most=LONGEST)
        self._check_where()

    @abstractmethod
    def change(self, fate: Fate) -> Fate:
        """The fate of a clock with this fault, given its fate without."""

    def _check_where(self) -> None:
        """Raise ValueError unless it says where it strikes, and says no more."""
        in_clock = self.phase in (STEP, PUSH)
        if self.at is not None:
            if not self.timed:
                raise self._refused("at", "it strikes no moment; name the clock, or which time")
            if not in_clock or self.nth != 1 or self.clock is not None:
                raise self._refused("at", 'it stands in place of `clock`, `nth` and phase "join"')
            if self.worker is None and not self.of_process:
                raise self._refused("worker", "it is missing: whose clock is it?")
            return
        needed = {STEP: ("worker", "clock"), PUSH: ("worker", "clock"), JOIN: ("worker",)}
        for name in ("worker", "clock"):
            given, wanted = getattr(self, name) is not None, name in needed.get(self.phase, ())
            if wanted and not given:
                raise self._refused(name, f'it is missing; phase "{self.phase}" needs it')
            if given and not wanted:
                raise self._refused(name, f'phase "{self.phase}" has none; leave it out')

    def _refused(self, name: str, why: str) -> ValueError:
        return ValueError(f"`{type(self).__name__}({name}=...)`: {why}, got {self}.")

    def __repr__(self) -> str:
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        # Of another type there may be anything, which is refused next: an array is not compared.
        given = [
            f"{name}={value!r}"
            for name, (value, default) in values.items()
            if type(value) is not type(default) or value != default
        ]
        return f"{type(self).__name__}({', '.join(given)})"


@dataclass(frozen=True, repr=False)
class Act(Fault):
    """A fault that does something in a phase: it raises, waits, or strikes the process."""

    phases: ClassVar[tuple[str, ...]] = PHASES

    @abstractmethod
    def act(self) -> None:
        """Do it; whoever is in that phase calls this."""

    def change(self, fate: Fate) -> Fate:
        if self.phase == PUSH:
            return fate._replace(in_push=(*fate.in_push, self))
        return fate._replace(in_step=(*fate.in_step, self))
