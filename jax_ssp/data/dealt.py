"""A worker's batches of an elastic source: those that the ledger gives it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import jax

from jax_ssp.checks import integer
from jax_ssp.data.arrays import as_numpy, taken
from jax_ssp.data.elastic import Elastic
from jax_ssp.data.ledger import Ledger
from jax_ssp.failures import note
from jax_ssp.trees import Tree, digest

_TRIMMED = 4096  # numbers that are passed, and kept no longer


class Dealt:
    """Batches on the host, made of the numbers that the ledger has for a worker.

    What is drawn ahead of a clock's start is what the worker will probably be given; should another
    worker come or go, it may be others, and what was drawn is thrown away.

    Args:
        source: of the batches.
        ledger: of the run.
        worker: whose batches they are.
        cursor: how many of them are taken.

    Attributes:
        worker: as given.
        batches: drawn and not taken yet.
        taken: how many were taken, or passed over.
        only_numpy: whether all that was ever drawn is NumPy's own arrays, and nothing else.
    """

    ended = False  # it never does

    def __init__(self, source: Elastic, ledger: Ledger, worker: int, cursor: int = 0) -> None:
        self.worker = worker
        self.batches: list[Tree] = []
        self.taken = integer("Feed.at(cursor=...)", cursor, least=0)
        self.only_numpy = True
        self._source = source
        self._ledger = ledger
        self._fresh = getattr(source, "fresh", False) is True
        self._numbers: list[int] = []  # of `batches`
        self._stream = ledger.open(worker, cursor)  # grows while this thread reads it
        self._at = 0  # how many of these are taken
        self._error: Exception | None = None
        self._drawing: float | None = None  # since when a batch is made

    @property
    def iterator(self) -> Any:
        """Itself, which no other worker has."""
        return self

    def waiting(self) -> tuple[int, float] | None:
        """For which batch the source is waited for, and for how long (seconds), if it is."""
        since = self._drawing
        if since is None:
            return None
        return self.taken + len(self.batches), time.monotonic() - since

    def ready(self, steps: int) -> int:
        """All of them: there is always another epoch."""
        return steps

    def _next(self, steps: int) -> list[int]:
        """The numbers of the next batches, as far as they are known; then those to be expected."""
        given = self._stream[self._at : self._at + steps]  # at once: another thread adds to it
        if len(given) < steps:
            given += islice(self._ledger.following(self.worker), steps - len(given))
        return given

    def draw(self, steps: int) -> list[int] | None:
        """Draw until the next `steps` batches wait here; None if one cannot be made.

        Gives what tells them from others that may be drawn: their numbers.
        """
        numbers, mine = self._next(steps), self._numbers
        if mine[:steps] == numbers:
            return numbers
        right = 0
        while right < len(mine) and mine[right] == numbers[right]:
            right += 1
        del mine[right:]  # what was expected has not come true
        del self.batches[right:]
        return numbers if all(map(self._make, numbers[right:])) else None

    def _make(self, number: int) -> bool:
        self._drawing = time.monotonic()
        epoch, index = divmod(number, self._source.batches_per_epoch)
        try:
            batch = self._source.batch(epoch, index)
            mine = as_numpy(batch, self._fresh)
            if mine is None:
                self.only_numpy = False
                mine = taken(batch, _named(epoch, index), self._fresh)
        except Exception as error:
            note(error, f"in {_named(epoch, index)}")
            self._error = error
            return False
        finally:
            self._drawing = None
        self._numbers.append(number)
        self.batches.append(mine)
        return True

    def need(self, steps: int) -> list[int]:
        """See `draw`; raises what the source raises."""
        numbers = self.draw(steps)
        if numbers is None:
            assert self._error is not None
            raise self._error
        return numbers

    def take(self, steps: int) -> None:
        """So many of the batches that are drawn are taken."""
        del self.batches[:steps]
        del self._numbers[:steps]
        self._pass(steps)

    def skip(self, steps: int) -> None:
        """Pass over so many batches, which are not made."""
        self._pass(steps)

    def _pass(self, steps: int) -> None:
        self._at += steps
        self.taken += steps
        assert self._at <= len(self._stream), "it was given fewer"
        if self._at >= _TRIMMED:
            del self._stream[: self._at]
            self._at = 0

    # To be there again.

    def state(self) -> dict[str, Any]:
        """The cursor is all: the ledger knows the rest, from the tape."""
        return {"cursor": self.taken}

    def at(self, cursor: int, state: Mapping[str, Any] | None) -> Dealt:
        """See `Feed.at`; the ledger has been told by then what happened."""
        return Dealt(self._source, self._ledger, self.worker, cursor)

    def rewound(self, cursor: int) -> Dealt:
        """See `Feed.rewound`."""
        return self.at(cursor, None)

    def check_goes_back(self) -> None:
        """See `Feed.check_goes_back`."""
        first, again = (digest(*jax.tree.leaves(self._source.batch(0, 0))) for _ in range(2))
        if first != again:
            raise ValueError(
                "`data.batch(epoch=0, index=0)` gives another batch when it is called again: make "
                "it a function of these two numbers alone (its order by a seed, say)."
            )


def _named(epoch: int, index: int) -> str:
    """A batch, for messages."""
    return f"`data.batch(epoch={epoch}, index={index})`"
