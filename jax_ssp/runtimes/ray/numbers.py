"""The numbers of the batches that a run's ledger gives a worker, on their way to where it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from jax_ssp.data.ledger import Ledger


class Numbers(NamedTuple):
    """What the ledger has for a worker, beyond what was sent before.

    Attributes:
        given: numbers of batches that are its own, in their order.
        expected: those that will probably follow.
    """

    given: list[int]
    expected: list[int]


class Dealer:
    """Sends the numbers of a worker's batches to where it is.

    Args:
        ledger: of the run.
        worker: whose.
        cursor: how many batches it has taken.

    Example:
        >>> ledger = Ledger(batches_per_epoch=6, num_workers=2)
        >>> dealer, there = Dealer(ledger, worker=1, cursor=0), Given()
        >>> stream = there.open(1)
        >>> ledger.started(1, token="a", steps=2)
        [1, 3]
        >>> there.take(dealer.next(ahead=1))
        >>> stream, next(there.following(1))
        ([1, 3], 5)
    """

    def __init__(self, ledger: Ledger, worker: int, cursor: int) -> None:
        self._ledger = ledger
        self._worker = worker
        self._stream = ledger.open(worker, cursor)

    def next(self, ahead: int) -> Numbers:
        """What is new, with so many that are to be expected."""
        count = len(self._stream)  # another thread adds to it
        given = self._stream[:count]
        del self._stream[:count]
        return Numbers(given, list(islice(self._ledger.following(self._worker), ahead)))


class Given:
    """Stands for the ledger where the worker is: knows what it was told."""

    def __init__(self) -> None:
        self._stream: list[int] = []
        self._expected = [0]  # until it is told: whichever batch it is, they are alike

    def take(self, numbers: Numbers) -> None:
        """Hear of more."""
        self._stream.extend(numbers.given)
        self._expected = numbers.expected

    def open(self, worker: int, cursor: int = 0) -> list[int]:
        """Where the worker finds its numbers; what it was given before, it had."""
        self._stream = []
        return self._stream

    def following(self, worker: int) -> Iterator[int]:
        """Those that it will probably be given next, as many as are known."""
        return iter(self._expected)
