"""A vector of clocks, one a live worker, and its minimum at O(1) amortised cost.

Workers are counted by clock, and the minimum is a pointer that only moves up: a clock only
advances, and who joins does so at the minimum or above. Its moves are paid for by the advances.
"""

from __future__ import annotations


class ClockVector:
    """The clocks of the live workers.

    Example:
        >>> clocks = ClockVector()
        >>> clocks.join(0, at=0); clocks.join(1, at=0)
        >>> clocks.advance(0)
        >>> clocks.min, clocks.of[0]
        (0, 1)
        >>> clocks.leave(1); clocks.min
        1
    """

    __slots__ = ("_count", "min", "of")

    def __init__(self) -> None:
        self.of: dict[int, int] = {}  # the clock of each worker; to be read
        self._count: dict[int, int] = {}
        self.min = 0  # with nobody there it keeps its last value, so that it never moves down

    def join(self, worker: int, at: int) -> None:
        assert worker not in self.of
        assert at >= self.min
        self.of[worker] = at
        self._count[at] = self._count.get(at, 0) + 1
        self._raise_min()

    def advance(self, worker: int) -> None:
        old = self.of[worker]
        self.of[worker] = new = old + 1
        count = self._count
        count[new] = count.get(new, 0) + 1
        if count[old] > 1:
            count[old] -= 1
        else:
            del count[old]
            if old == self.min:
                self.min = new

    def leave(self, worker: int) -> None:
        clock = self.of.pop(worker)
        self._count[clock] -= 1
        if not self._count[clock]:
            del self._count[clock]
            self._raise_min()

    def _raise_min(self) -> None:
        if self._count:
            while self.min not in self._count:
                self.min += 1
