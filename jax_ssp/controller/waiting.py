"""Where waiting workers wait, so that an event only touches those it can release.

Each is in one lot: until the newest version covers so many clocks, until the server has reached a
version, or until anything happens at all. A lot is ordered: who waits longest is asked first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_Lot = dict[int, None]


class WaitingRoom:
    """The waiting workers, by what they wait for.

    Attributes:
        coverage: the one that `leave_reached` was told last; until there is another, nobody who
            waits for a coverage is to leave.
        for_more: whether somebody may wait for something else than a coverage.

    Example:
        >>> room = WaitingRoom()
        >>> room.enter(7, coverage=2)
        >>> room.leave_reached(coverage=1, version=5), room.leave_reached(coverage=3, version=6)
        ([], [7])
    """

    def __init__(self) -> None:
        self._lot_of: dict[int, _Lot] = {}
        self._until_coverage: dict[int, _Lot] = {}
        self._until_version: dict[int, _Lot] = {}
        self._until_anything: _Lot = {}
        self.coverage = 0  # lots up to here are empty
        self.for_more = False
        self._version = 0

    def __len__(self) -> int:
        return len(self._lot_of)

    def __iter__(self) -> Iterator[int]:
        return iter(self._lot_of)

    def enter(self, worker: int, coverage: int | None = None, version: int | None = None) -> None:
        """Wait until this coverage or this version is reached, or, with neither, until anything."""
        if coverage is not None:
            lot = self._until_coverage.setdefault(coverage, {})
        elif version is not None:
            lot = self._until_version.setdefault(version, {})
            self.for_more = True
        else:
            self.for_more = True
            lot = self._until_anything
        lot[worker] = None
        self._lot_of[worker] = lot

    def leave(self, worker: int) -> None:
        """Wait no more, if it does."""
        lot = self._lot_of.pop(worker, None)
        if lot is not None:
            del lot[worker]

    def wait_no_more(self) -> None:
        """Whatever they wait for, let all go next time, in the order in which they came."""
        self.for_more = True
        self._until_coverage.clear()
        self._until_version.clear()
        self._until_anything = dict.fromkeys(self._lot_of)
        self._lot_of = dict.fromkeys(self._lot_of, self._until_anything)

    def leave_reached(self, coverage: int, version: int) -> Sequence[int]:
        """Let go, in order, of those whose coverage or version is reached, or who wait for any."""
        workers: list[int] = []
        workers += _reached(self._until_coverage, self.coverage, coverage)
        workers += _reached(self._until_version, self._version, version)
        workers += self._until_anything
        self._until_anything.clear()
        for worker in workers:
            del self._lot_of[worker]
        self.coverage, self._version = coverage, version
        self.for_more = bool(self._until_version)
        return workers


def _reached(lots: dict[int, _Lot], last: int, now: int) -> list[int]:
    """Take out the workers that wait for a number in (last, now]."""
    workers: list[int] = []
    if lots:
        for number in range(last + 1, now + 1):
            workers += lots.pop(number, ())
    return workers
