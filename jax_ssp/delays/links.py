"""What travels in one direction of a network, as fluids: who has arrived when.

Between two changes (something begins, arrives, or is broken off) each flow has a constant rate: the
least of its worker's bandwidth and the level at which the server's bandwidth is used up (max-min
fairness). Flows of equal bandwidth have equal rates at any moment. So they are kept together, with
one count of the bytes that each of them has sent since the group began, and the one of them that
arrives first is the one with the least bytes to send since then: a change costs the logarithm of
their number, times one for each different bandwidth.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from operator import attrgetter
from typing import NamedTuple

from jax_ssp.delays.network import Network


class Arrival(NamedTuple):
    """Something has arrived whole.

    Attributes:
        time: when (seconds).
        worker: whose.
        grant: of its clock.
    """

    time: float
    worker: int
    grant: int


class _Group:
    """Flows of workers with the same bandwidth.

    Attributes:
        bandwidth: of their links (bytes/s).
        rate: of each (bytes/s), at the moment.
        sent: bytes that each has sent, if it has been there since the group began.
        arriving: (`sent` when it arrives, worker, grant) of each, and of some that are broken off.
        count: how many there are.
    """

    __slots__ = ("arriving", "bandwidth", "count", "rate", "sent")

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth = bandwidth
        self.rate = 0.0
        self.sent = 0.0
        self.arriving: list[tuple[float, int, int]] = []
        self.count = 0


class Links:
    """The links of all workers, in one direction.

    Args:
        network: whose they are.

    Example:
        >>> links = Links(Network(latency=1.0, bandwidth=10.0, server_bandwidth=10.0))
        >>> links.begin(0.0, worker=0, grant=0, size=50.0)
        >>> links.begin(0.0, worker=1, grant=1, size=10.0)
        >>> found = []
        >>> while links.next() < math.inf:
        ...     found.append(links.step())
        >>> [tuple(each) for each in found if each is not None]
        [(3.0, 1, 1), (7.0, 0, 0)]
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._shared = network.shared
        self._now = 0.0  # of the last change
        self._flows: dict[int, _Group | None] = {}  # by grant; None before its first byte
        self._entering: list[tuple[float, int, int, float]] = []  # when, worker, grant, size
        self._groups: list[_Group] = []  # that have flows, by bandwidth
        self._count = 0  # flows in them
        self._first: tuple[float, int, int, _Group] | None = None  # that arrives

    def begin(self, at: float, worker: int, grant: int, size: float) -> None:
        """Something begins to travel.

        Args:
            at: when (seconds); not before the last change.
            worker: whose link it takes.
            grant: of its clock; one that is under way is not begun once more.
            size: bytes.
        """
        assert grant not in self._flows, "one push and one read a clock"
        self._flows[grant] = None
        entry = at + self._network.latency_of(worker), worker, grant, size
        heapq.heappush(self._entering, entry)

    def next(self) -> float:
        """When the next change comes (seconds); infinity if none does."""
        first = math.inf if self._first is None else self._first[0]
        return min(first, self._entering[0][0]) if self._entering else first

    def step(self) -> Arrival | None:
        """Have the next change happen; gives what has arrived by it, if anything has."""
        first = self._first
        if first is None or (self._entering and self._entering[0][0] <= first[0]):
            return self._enter()
        now, worker, grant, group = first
        self._advance(now)
        group.sent = group.arriving[0][0]  # to the last bit: who has as much to send arrives too
        self._leave(group, grant)
        return Arrival(now, worker, grant)

    def end(self, now: float, grant: int) -> None:
        """Break a flow off, if it is under way: the others have its share from now on (seconds)."""
        if grant not in self._flows:
            return
        group = self._flows[grant]
        if group is None:
            del self._flows[grant]
            _without_gone(self._entering, self._flows)
        else:
            self._advance(max(now, self._now))
            self._leave(group, grant)

    @property
    def under_way(self) -> list[tuple[float, int, int, float]]:
        """What travels: when its first byte came or comes, or the last change; worker, grant, and
        the bytes left then."""
        entering = [each for each in self._entering if each[2] in self._flows]
        sending = [
            (self._now, worker, grant, until - group.sent)
            for group in self._groups
            for until, worker, grant in group.arriving
            if grant in self._flows
        ]
        return sorted(entering + sending)

    def _enter(self) -> Arrival | None:
        """The first byte of something is sent; it has arrived with that if no byte takes time."""
        now, worker, grant, size = heapq.heappop(self._entering)
        _without_gone(self._entering, self._flows)
        bandwidth = self._network.bandwidth_of(worker)
        if not size or math.inf == bandwidth == self._shared:
            del self._flows[grant]
            return Arrival(now, worker, grant)
        self._advance(max(now, self._now))
        group = next((each for each in self._groups if each.bandwidth == bandwidth), None)
        if group is None:
            group = _Group(bandwidth)
            insort(self._groups, group, key=attrgetter("bandwidth"))
        self._flows[grant] = group
        group.count += 1
        self._count += 1
        heapq.heappush(group.arriving, (group.sent + size, worker, grant))
        self._share()
        return None

    def _leave(self, group: _Group, grant: int) -> None:
        del self._flows[grant]
        group.count -= 1
        self._count -= 1
        if group.count:
            _without_gone(group.arriving, self._flows)
        else:
            self._groups.remove(group)
        self._share()

    def _advance(self, now: float) -> None:
        """Time passes, and bytes are sent."""
        passed = now - self._now
        for group in self._groups if passed else ():
            group.sent += group.rate * passed
        self._now = now

    def _share(self) -> None:
        """Divide the server's bandwidth anew, and see who arrives first."""
        left, count, self._first = self._shared, self._count, None
        for group in self._groups:  # by bandwidth, so who cannot use its share comes first
            share = left / count
            group.rate = min(group.bandwidth, share)
            left = max(0.0, left - group.rate * group.count)
            count -= group.count
            until, worker, grant = group.arriving[0]
            now = self._now + max(0.0, until - group.sent) / group.rate
            if self._first is None or (now, worker, grant) < self._first[:3]:
                self._first = now, worker, grant, group


def _without_gone(
    flows: list[tuple[float, int, int, float]] | list[tuple[float, int, int]],
    here: dict[int, _Group | None],
) -> None:
    """Take those off a heap that come first, and are broken off."""
    while flows and flows[0][2] not in here:
        heapq.heappop(flows)
