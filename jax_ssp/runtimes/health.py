"""Who hangs: liveness by progress, in the controller's own ticks.

A clock may take three times as long as the slowest that was seen, step for step, and at least half
a minute. What counts is the time that somebody has looked at: between two looks that are far apart
the process was stopped, the machine asleep, or a lock held by others, and that is nobody's fault.
Nothing counts while a worker compiles, nor while the run evaluates.

Times come in and verdicts go out: there is no thread here, and no clock is read.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

TICK = 1.0  # seconds between two looks, if nothing holds them up
FAR_APART = 5  # ticks between two looks that say nothing of the workers
LEAST = 30.0  # seconds
MARGIN = 3.0  # times the slowest clock that was seen
PATIENCE = 3  # times that the limit is doubled while all are suspect


class Busy(NamedTuple):
    """What a worker is at.

    Attributes:
        clock: names the clock that it runs.
        steps: of it.
        counts: whether the time now counts for it; not while it compiles.
    """

    clock: Hashable
    steps: int
    counts: bool = True


class Verdict(NamedTuple):
    """What a look has come to.

    Attributes:
        hangs: the worker that is to be evicted; None if none is.
        all_since: for how long all workers have made no progress, if that is to be said now
            (seconds); None if it is not.
    """

    hangs: int | None = None
    all_since: float | None = None


FINE = Verdict()


class Health:
    """Sees from looks at the workers who makes no progress.

    Args:
        deadline: how long a clock may take, whatever was seen (seconds); None to go by that.
        tick: between two looks, if nothing holds them up (seconds).

    Example:
        >>> health = Health(deadline=1.5)
        >>> busy = {0: Busy(clock=7, steps=1), 1: Busy(clock=8, steps=1)}
        >>> health.look(0.0, busy, workers=3), health.look(1.0, busy, workers=3)
        (Verdict(hangs=None, all_since=None), Verdict(hangs=None, all_since=None))
        >>> busy[1] = Busy(clock=9, steps=1)  # which is progress
        >>> health.look(2.0, busy, workers=3)
        Verdict(hangs=0, all_since=None)
    """

    def __init__(self, deadline: float | None = None, tick: float = TICK) -> None:
        self._deadline = deadline
        self._tick = tick
        self._slowest = 0.0  # seconds that a step has taken
        self._at: dict[int, tuple[Hashable, float]] = {}  # each worker's clock, and what counts
        self._looked: float | None = None
        self._doubled = 0  # how often the limits are

    def finished(self, seconds: float, steps: int) -> None:
        """A clock of so many steps has taken so long, without what does not count."""
        self._slowest = max(self._slowest, seconds / steps)
        self._doubled = 0

    def limit(self, steps: int) -> float:
        """How long a clock of so many steps may take (seconds)."""
        limit = self._deadline
        if limit is None:
            limit = max(LEAST, MARGIN * steps * self._slowest)
        return limit * 2.0**self._doubled

    def look(
        self, now: float, busy: Mapping[int, Busy], workers: int, excused: bool = False
    ) -> Verdict:
        """Look at the workers.

        Args:
            now: seconds, on any clock.
            busy: those who run a clock.
            workers: how many there are, with those who wait.
            excused: whether the run does something that may hold them all up.
        """
        passed = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if excused or not 0 <= passed <= FAR_APART * self._tick:
            passed = 0.0
        before, self._at = self._at, {}
        for worker, each in busy.items():
            clock, counted = before.get(worker, (None, 0.0))
            if clock != each.clock:
                counted = 0.0  # from this look on
            elif each.counts:
                counted += passed
            self._at[worker] = each.clock, counted
        suspect = [
            worker for worker, each in busy.items() if self._at[worker][1] >= self.limit(each.steps)
        ]
        if not suspect:
            return FINE
        longest = max(suspect, key=lambda worker: self._at[worker][1])
        if len(suspect) == workers and self._doubled < PATIENCE:
            self._doubled += 1  # it is the machine, perhaps, and none of them
            return Verdict(all_since=self._at[longest][1])
        return Verdict(hangs=longest)
