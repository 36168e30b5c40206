"""When the clocks under way end in virtual time, and which is next.

Ordered are times alone: numbers compare in a third of what tuples take, and of many workers those
that are compared are in no cache. What ends at a time is looked up once that has come.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator

from jax_ssp.controller.commands import StartClock


class Timetable:
    """Clocks under way, by when they end; those that end at one time in the order of `add`.

    Attributes:
        times: a heap of all times at which something ends (seconds), each once.
        ends: what ends at each of these: a clock, or several in their order.

    Example:
        >>> from jax_ssp.controller import Token
        >>> table = Timetable()
        >>> for worker, when in enumerate([2.0, 1.0, 2.0]):
        ...     table.add(when, StartClock(worker, 0, 1, 0, (), 3, 1.0, Token(0, worker)))
        >>> [(when, start.worker) for when, start in table]
        [(1.0, 1), (2.0, 0), (2.0, 2)]
        >>> when, start = table.pop()
        >>> when, start.worker, table.next
        (1.0, 1, 2.0)
    """

    __slots__ = ("ends", "times")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.ends: dict[float, StartClock | deque[StartClock]] = {}

    def __iter__(self) -> Iterator[tuple[float, StartClock]]:
        for when in sorted(self.times):
            ends = self.ends[when]
            for start in ends if type(ends) is deque else (ends,):
                yield when, start

    @property
    def next(self) -> float:
        """When the next one ends (seconds); infinity if none is under way."""
        return self.times[0] if self.times else math.inf

    @property
    def first(self) -> StartClock:
        """The one that ends next; there is one."""
        ends = self.ends[self.times[0]]
        return ends[0] if type(ends) is deque else ends

    def add(self, when: float, start: StartClock) -> None:
        """A clock ends then (seconds)."""
        ends = self.ends.setdefault(when, start)
        if ends is start:
            heapq.heappush(self.times, when)
        elif type(ends) is deque:
            ends.append(start)
        else:
            self.ends[when] = deque((ends, start))

    def pop(self) -> tuple[float, StartClock]:
        """Take out the one that ends next; there is one."""
        when = self.times[0]
        start = self.ends.pop(when)
        if type(start) is deque:
            several, start = start, start.popleft()
            if several:
                self.ends[when] = several
                return when, start
        heapq.heappop(self.times)
        return when, start

    def keep(self, wanted: Callable[[StartClock], bool]) -> None:
        """Take out all that are not wanted."""
        there = list(self)
        self.times.clear()
        self.ends.clear()
        for when, start in there:
            if wanted(start):
                self.add(when, start)
