"""When a run is saved while it goes, and how a cut comes about without anybody waiting for it.

A clock that runs has taken over the arrays that it began with. So a save *arms*: from then on each
worker keeps what it is before the clock that it begins. Once every clock that runs was begun like
that, the cut is where the tape is just then, and nobody keeps anything any more. It costs one or
two copies of a worker's state for each save, and none otherwise.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jax_ssp.files import say
from jax_ssp.runtimes.cut import Cut, NotKept, cut

if TYPE_CHECKING:
    from jax_ssp.runtimes.carrying import Carrying


class Saving:
    """Has a run saved every so often, and once more when it is suspended, or comes to its end.

    Args:
        save: takes a cut, and returns at once.
        seconds: of real time between two saves; None for no saves by time.
        clocks: between two saves, as evaluations count them: merged deltas for each worker; None
            for no saves by clocks.
        grace: for the last save, once the run is to be suspended (seconds).
        now: gives real time (seconds).

    Attributes:
        armed: whether a cut is wanted.
        suspended: whether the run is over, to be gone on with later.
    """

    def __init__(
        self,
        save: Callable[[Cut], object],
        seconds: float | None = None,
        clocks: int | None = None,
        grace: float = 30.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.armed = False
        self.suspended = False
        self._save = save
        self._seconds = seconds
        self._clocks = clocks
        self._grace = grace
        self._now = now
        self._last = now()  # when a cut was made
        self._rows: int | None = None  # of that
        self._since: int | None = None  # updates, when the last save was due
        self._until: float | None = None  # when the run is suspended, saved or not

    def suspend(self) -> None:
        """Save once more, then end, to be gone on with; a signal handler may call this."""
        if self._until is None:
            self._until = self._now() + self._grace
            self.armed = True

    @property
    def ends(self) -> bool:
        """Whether the run is to be suspended."""
        return self._until is not None

    @property
    def left(self) -> float:
        """How long the last save may still take (seconds)."""
        return self._grace if self._until is None else max(0.0, self._until - self._now())

    def look(self, loop: Carrying) -> None:
        """Something happened: begin to save if it is time, and cut if all is kept by now."""
        if loop.clock.has_more:  # it happens again, and what it comes to has been saved
            self.suspended = self.ends
            return
        if not (self.armed or self._is_due(loop)):
            return
        made = None
        if loop.store is not None:
            loop.executor.arm(True)
            self.armed = True
            states = loop.executor.kept(loop.fold.running)
            with contextlib.suppress(NotKept):  # once that is heard, it is tried again
                made = None if states is None else cut(loop, states)
        if made is not None:
            loop.executor.arm(False)
            self.armed = False
            self._last = self._now()
            self._keep(made)
        if self._until is not None:
            self.suspended = made is not None or loop.store is None or self._now() >= self._until

    def finish(self, loop: Carrying) -> None:
        """The run is over: save what it has come to; with higher ends, it goes on from there.

        One that has diverged leaves its checkpoints as they are.
        """
        if loop.store is None or self._rows == len(loop.tape) or not loop.is_finite():
            return
        loop.executor.settle(self.left)
        states = loop.executor.kept(loop.fold.running)
        made = None
        with contextlib.suppress(NotKept):
            made = None if states is None else cut(loop, states)
        if made is None:
            say("the last checkpoint is not of the run's end: some worker did not come to rest")
        else:
            self._keep(made)

    def _keep(self, made: Cut) -> None:
        self._rows = made.rows
        self._save(made)

    def _is_due(self, loop: Carrying) -> bool:
        if loop.store is None:  # all of it is on the tape
            return False
        if self._clocks is not None:
            updates = loop.totals.updates
            if self._since is None:
                self._since = updates
            if updates - self._since >= self._clocks * max(1, loop.controller.num_workers):
                self._since = updates
                return True
        return self._seconds is not None and self._now() - self._last >= self._seconds
