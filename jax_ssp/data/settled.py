"""What became of the batches of each epoch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# What is kept of a batch: these, and how often it was merged.
_GIVEN, _DROPPED, _ONCE = 1, 2, 4
_MOST = 255 - _ONCE


class Epoch(NamedTuple):
    """What became of the samples of an epoch.

    Attributes:
        epoch: which, counted from 0.
        seen: samples of it that were merged.
        twice: of these, those that were merged more than once.
        dropped: those in clocks that were dropped or cancelled; they are not given again.
        never: all others.
    """

    epoch: int
    seen: int
    twice: int
    dropped: int
    never: int


class Settled:
    """What became of the batches, epoch by epoch; of an epoch that is all settled only the sums.

    Args:
        size: batches in an epoch.

    Attributes:
        whole: how many epochs are settled whose batches are all merged, each once.

    Example:
        >>> settled = Settled(size=3)
        >>> settled.give([0, 1, 2, 4])
        >>> settled.merged([0, 1])
        >>> settled.dropped([2])
        >>> settled.give_back([4])
        >>> settled.free(epochs=2)
        [3, 4, 5]
        >>> settled.rows(1)
        [Epoch(epoch=0, seen=2, twice=0, dropped=1, never=0)]
        >>> settled.whole
        0
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._open: dict[int, bytearray] = {}
        self._left: dict[int, int] = {}  # batches of each of these that are not settled
        self._closed: dict[int, Epoch] = {}  # those that are not whole
        self._whole: set[int] = set()
        self._below = 0  # all epochs before this one are whole, and not in the set

    @property
    def whole(self) -> int:
        return self._below + len(self._whole)

    def give(self, numbers: Iterable[int]) -> None:
        """Batches are given out."""
        for number in numbers:
            epoch, index = divmod(number, self._size)
            marks = self._open.get(epoch)
            if marks is None:
                marks = self._open[epoch] = bytearray(self._size)
                self._left[epoch] = self._size
            marks[index] |= _GIVEN

    def give_back(self, numbers: Iterable[int]) -> None:
        """Batches that were given out are not."""
        for number in numbers:
            epoch, index = divmod(number, self._size)
            self._open[epoch][index] &= ~_GIVEN & 0xFF

    def free(self, epochs: int) -> list[int]:
        """The batches of the first epochs that are not given out, in order."""
        free: list[int] = []
        for epoch in range(self._below, epochs):
            marks, first = self._open.get(epoch), epoch * self._size
            if marks is not None:
                free += [first + index for index, mark in enumerate(marks) if not mark & _GIVEN]
            elif epoch not in self._whole and epoch not in self._closed:
                free += range(first, first + self._size)
        return free

    def merged(self, numbers: Iterable[int]) -> None:
        """Batches are in a delta that is merged."""
        for number in numbers:
            epoch, index = divmod(number, self._size)
            marks = self._open[epoch]
            if marks[index] < _ONCE and not marks[index] & _DROPPED:
                self._left[epoch] -= 1
            marks[index] += _ONCE if marks[index] < _MOST else 0
            if not self._left[epoch]:
                self._close(epoch)

    def dropped(self, numbers: Iterable[int]) -> None:
        """Batches are in a clock that is dropped, or cancelled."""
        for number in numbers:
            epoch, index = divmod(number, self._size)
            marks = self._open[epoch]
            if marks[index] < _ONCE and not marks[index] & _DROPPED:
                self._left[epoch] -= 1
            marks[index] |= _DROPPED
            if not self._left[epoch]:
                self._close(epoch)

    def _close(self, epoch: int) -> None:
        row = self._row(epoch)
        del self._open[epoch], self._left[epoch]
        if row.seen == self._size and not row.twice:
            self._whole.add(epoch)
        else:
            self._closed[epoch] = row
        while self._below in self._whole:
            self._whole.remove(self._below)
            self._below += 1

    def _row(self, epoch: int) -> Epoch:
        marks = self._open[epoch]
        seen = sum(mark >= _ONCE for mark in marks)
        twice = sum(mark >= 2 * _ONCE for mark in marks)
        dropped = sum(mark & _DROPPED and mark < _ONCE for mark in marks)
        return Epoch(epoch, seen, twice, dropped, self._size - seen - dropped)

    def rows(self, samples: int) -> list[Epoch]:
        """The epochs that are begun and not whole; `samples` are in a batch."""
        begun = {epoch: self._row(epoch) for epoch, marks in self._open.items() if any(marks)}
        rows = {**self._closed, **begun}
        return [
            Epoch(epoch, *(samples * count for count in rows[epoch][1:])) for epoch in sorted(rows)
        ]
