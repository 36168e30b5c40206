"""Clocks whose delta is not finite: how many in a row, of which worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jax_ssp.controller.events import DeltaReady, Event, WorkerJoined

if TYPE_CHECKING:
    from jax_ssp.layout import Layout
    from jax_ssp.worker.worker import Worker


class BadNumbers:
    """Counts the clocks of each worker that were not finite, since the last one that was.

    Args:
        most: so many in a row end the run, at least 1; None if none do.
        where: says of a worker in which leaves of its last delta a number is not finite; empty
            where nobody knows.

    Example:
        >>> from jax_ssp.controller import Token
        >>> bad = BadNumbers(2, lambda worker: "['w']")
        >>> pushes = [DeltaReady(3, clock, 0, Token(0, clock), finite=False) for clock in (0, 1)]
        >>> [bad.take(push) for push in pushes]
        [None, "2 clocks in a row of worker 3 are not finite, in ['w']"]
    """

    def __init__(self, most: int | None, where: Callable[[int], str] = lambda worker: "") -> None:
        self._most = most
        self._where = where
        self.in_a_row: dict[int, int] = {}  # by worker, where it is not 0

    @classmethod
    def of(cls, most: int | None, workers: Sequence[Worker], layout: Layout | None) -> BadNumbers:
        """Those of a run with these workers; `layout` of their deltas, None if there are none."""
        most = None if most is None else max(1, most)
        if layout is None:
            return cls(most)
        from jax_ssp.worker.anew import not_finite

        return cls(most, lambda worker: not_finite(workers[worker].replica, layout))

    def take(self, event: Event) -> str | None:
        """Hear of an event, but not of what is late; gives why the run is to end, if it is."""
        if type(event) is DeltaReady and not event.finite:
            count = self.in_a_row[event.worker] = self.in_a_row.get(event.worker, 0) + 1
            if self._most is not None and count >= self._most:
                return self._told(event.worker, count)
        elif self.in_a_row and isinstance(event, DeltaReady | WorkerJoined):
            self.in_a_row.pop(event.worker, None)
        return None

    def _told(self, worker: int, count: int) -> str:
        clocks = "1 clock" if count == 1 else f"{count} clocks in a row"
        verb = "is" if count == 1 else "are"
        where = self._where(worker)
        return f"{clocks} of worker {worker} {verb} not finite" + (f", in {where}" if where else "")
