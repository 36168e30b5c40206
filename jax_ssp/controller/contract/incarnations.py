"""Who is here, and what became of what they pushed; kept for the clauses alone."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from jax_ssp.controller.commands import StartAhead, StartClock


class Smallest:
    """The smallest value of a changing set, by a heap in which outdated entries are skipped."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def put(self, worker: int, value: int) -> None:
        self.of[worker] = value
        heapq.heappush(self._heap, (value, worker))

    def value(self) -> int:
        heap = self._heap
        while heap and self.of.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else 0


@dataclass
class Incarnation:
    """A worker from its join to its loss; one that comes back is another incarnation."""

    entered: int = 0  # clocks that count as finished when it joined
    stopped: bool = False
    short: int = 0  # clocks that had fewer steps than were granted
    running: StartClock | None = None
    ahead: StartAhead | None = None  # what it is granted, until that is started
    held: int = -1  # the version it reads; none before its first clock and after a cancelled one
    # Where there are fragments: of each the version that it was adopted of, or None if the next
    # clock adopts all; and by stamp the bases of deltas under way.
    adopted: list[int] | None = None
    bases: dict[int, int] = field(default_factory=dict[int, int])
    # Its pushed deltas in order: (stamp, version that contains it; None while it is under way).
    log: list[tuple[int, int | None]] = field(default_factory=list[tuple[int, int | None]])
