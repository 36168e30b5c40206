"""How many workers are at each clock, and the smallest of these clocks, at O(1) amortised cost.

The smallest is a pointer that only moves up: a clock only advances, and who joins does so at the
smallest or above. Its moves are paid for by the advances. Which worker is where is not known here.
"""

from __future__ import annotations


class ClockVector:
    """The clocks of the live workers, counted.

    Example:
        >>> clocks = ClockVector()
        >>> clocks.join(at=0); clocks.join(at=0)
        >>> clocks.advance(0)
        >>> clocks.min
        0
        >>> clocks.leave(at=0); clocks.min
        1
    """

    __slots__ = ("_count", "min")

    def __init__(self) -> None:
        self._count: dict[int, int] = {}
        self.min = 0  # with nobody there it keeps its last value, so that it never moves down

    def join(self, at: int) -> None:
        assert at >= self.min
        self._count[at] = self._count.get(at, 0) + 1
        self._raise_min()

    def advance(self, old: int) -> None:
        """One that is at this clock goes on to the next."""
        count = self._count
        left = count[old] - 1
        new = old + 1
        count[new] = count[new] + 1 if new in count else 1
        if left:
            count[old] = left
        else:
            del count[old]
            if old == self.min:
                self.min = new

    def leave(self, at: int) -> None:
        self._count[at] -= 1
        if not self._count[at]:
            del self._count[at]
            self._raise_min()

    def _raise_min(self) -> None:
        if self._count:
            while self.min not in self._count:
                self.min += 1
