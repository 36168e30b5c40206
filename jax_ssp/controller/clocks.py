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
        >>> clocks.advance(0, 2)
        >>> clocks.min, clocks[0]
        (0, 2)
        >>> clocks.leave(1); clocks.min
        2
    """

    __slots__ = ("_clock", "_count", "min")

    def __init__(self) -> None:
        self._clock: dict[int, int] = {}
        self._count: dict[int, int] = {}
        self.min = 0  # with nobody there it keeps its last value, so that it never moves down

    def __getitem__(self, worker: int) -> int:
        return self._clock[worker]

    def __contains__(self, worker: int) -> bool:
        return worker in self._clock

    def __len__(self) -> int:
        return len(self._clock)

    def join(self, worker: int, at: int) -> None:
        assert worker not in self._clock
        assert at >= self.min
        self._clock[worker] = at
        self._count[at] = self._count.get(at, 0) + 1
        self._raise_min()

    def advance(self, worker: int, by: int = 1) -> None:
        old = self._clock[worker]
        new = old + by
        self._clock[worker] = new
        self._count[new] = self._count.get(new, 0) + 1
        self._forget(old)

    def leave(self, worker: int) -> None:
        self._forget(self._clock.pop(worker))

    def _forget(self, clock: int) -> None:
        left = self._count[clock] - 1
        if left:
            self._count[clock] = left
        else:
            del self._count[clock]
            if clock == self.min:
                self._raise_min()

    def _raise_min(self) -> None:
        if self._count:
            while self.min not in self._count:
                self.min += 1
