"""What becomes of a push on its way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from jax_ssp import checks
from jax_ssp.delays import LONGEST
from jax_ssp.runtimes.faults.base import PUSH, Fate, Fault


@dataclass(frozen=True, repr=False)
class Duplicate(Fault):
    """The push of the clock is reported twice, under the same token.

    Args:
        after: how much later the second time is (seconds of the world).

    Raises:
        ValueError: if `after` is negative or not finite.

    Example:
        >>> Duplicate(worker=1, clock=2, after=0.5)
        Duplicate(worker=1, clock=2, after=0.5)
    """

    phase: str = field(default=PUSH, kw_only=True)
    after: float = 0.0

    phases: ClassVar[tuple[str, ...]] = (PUSH,)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "after", checks.number, least=0, most=LONGEST)

    def change(self, fate: Fate) -> Fate:
        return fate._replace(again=(*fate.again, self.after))


@dataclass(frozen=True, repr=False)
class Late(Fault):
    """The push of the clock arrives when nobody waits for it any more, under its old token.

    The worker is taken for lost when it would have pushed (`WorkerLost`), and the push comes later;
    or, if the clock is cancelled before that, so much later than that.

    Args:
        seconds: how much later (seconds of the world).
        back_after: so many seconds after it is lost the worker joins again; None if it stays away.

    Raises:
        ValueError: if one is negative or not finite.

    Example:
        >>> Late(worker=1, clock=2, seconds=3.0, back_after=1.0)
        Late(worker=1, clock=2, seconds=3.0, back_after=1.0)
    """

    phase: str = field(default=PUSH, kw_only=True)
    seconds: float = 1.0
    back_after: float | None = None

    phases: ClassVar[tuple[str, ...]] = (PUSH,)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "seconds", checks.number, least=0, most=LONGEST)
        checks.put(self, "back_after", checks.optional, checks.number, least=0, most=LONGEST)

    def change(self, fate: Fate) -> Fate:
        return fate._replace(lost=PUSH, late=self.seconds, back_after=self.back_after)


@dataclass(frozen=True, repr=False)
class LostPush(Fault):
    """The clock is computed and its push never arrives: the worker looks as if it hangs.

    It waits for an answer, so it does nothing any more; see `Hang`.

    Example:
        >>> LostPush(worker=0, clock=3)
        LostPush(worker=0, clock=3)
    """

    phase: str = field(default=PUSH, kw_only=True)

    phases: ClassVar[tuple[str, ...]] = (PUSH,)

    def change(self, fate: Fate) -> Fate:
        return fate._replace(hangs=fate.hangs or PUSH)
