"""Which versions are needed, and by whom.

A version is needed by every clock that was granted on it, until the clock's delta is settled, and
by every worker that was granted it last, until that is granted another one or leaves: it may be
granted the same once more. The first is needed too by those who are made before the first clock,
until there is another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.events import Token


class Leases:
    """Counts who needs which version.

    Each call gives the version that nobody needs any more since; None if there is none.

    Attributes:
        clocks: that were granted, and whose deltas are not settled.
        last: the version that each worker was granted last.

    Example:
        >>> leases = Leases()
        >>> starts = [StartClock(0, n, 1, n, (), 1, 1.0, token=Token(0, n)) for n in (0, 1)]
        >>> leases.lease(starts[0]), leases.settled(starts[0].token), leases.begun()
        (None, None, None)
        >>> leases.lease(starts[1])
        0
    """

    def __init__(self) -> None:
        self.clocks: dict[Token, StartClock] = {}
        self.last: dict[int, int] = {}
        self._counts: dict[int, int] = {0: 1}

    def __contains__(self, version: int) -> bool:
        return version in self._counts

    def lease(self, start: StartClock) -> int | None:
        """This clock is granted."""
        worker, version, counts = start.worker, start.version, self._counts
        counts[version] = counts.get(version, 0) + 2  # by the clock and the worker
        before = self.last.get(worker)
        self.last[worker] = version
        self.clocks[start.token] = start
        return None if before is None else self._once_less(before)

    def begun(self) -> int | None:
        """There is a version beside the first."""
        return self._once_less(0)

    def settled(self, token: Token) -> int | None:
        """The delta of a clock is settled, if it was not."""
        start = self.clocks.pop(token, None)
        return None if start is None else self._once_less(start.version)

    def running(self, worker: int, pushed: Collection[Token]) -> list[Token]:
        """The clocks of a worker that it has not pushed."""
        return [
            token
            for token, start in self.clocks.items()
            if start.worker == worker and token not in pushed
        ]

    def leave(self, worker: int) -> int | None:
        """This worker is granted nothing any more."""
        last = self.last.pop(worker, None)
        return None if last is None else self._once_less(last)

    def go_on(self, version: int, last: Mapping[int, int], starts: Iterable[StartClock]) -> None:
        """Be what was saved, with this as the newest version."""
        self.last = dict(last)
        self.clocks = {start.token: start for start in starts}
        self._counts = {} if version else {0: 1}
        for each in [*self.last.values(), *(start.version for start in self.clocks.values())]:
            self._counts[each] = self._counts.get(each, 0) + 1

    @property
    def versions(self) -> list[int]:
        """Those that somebody needs."""
        return list(self._counts)

    def _once_less(self, version: int) -> int | None:
        self._counts[version] = left = self._counts[version] - 1
        if left:
            return None
        del self._counts[version]
        return version
