"""What is drawn from a worker's iterator and not taken yet, and how to be there again."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from jax_ssp.checks import integer
from jax_ssp.data import resuming
from jax_ssp.data.arrays import as_numpy, taken
from jax_ssp.data.placing import kind_of
from jax_ssp.failures import note
from jax_ssp.trees import Tree

_PAST = 4  # takes that a worker may be behind its feed


class Drawn:
    """Batches on the host, drawn from an iterator.

    Args:
        iterator: see `Feed`, like the two below.
        worker: whose batches they are.
        again: gives the same batches from the first one on.

    Attributes:
        iterator: what is drawn from.
        worker: as given.
        batches: drawn and not taken yet.
        taken: how many were taken, or passed over.
        only_numpy: whether all that was ever drawn is NumPy's own arrays, and nothing else.
    """

    def __init__(
        self, iterator: Iterable[Tree], worker: int, again: resuming.Again | None = None
    ) -> None:
        self.worker = integer("Feed(worker=...)", worker, least=0)
        if hasattr(iterator, "__getitem__") and not hasattr(iterator, "__iter__"):
            raise TypeError(
                f"{self} must return an iterator of batches, got a "
                f"{type(iterator).__name__}, which gives examples one by one; wrap it in a "
                "`torch.utils.data.DataLoader(dataset, batch_size=...)`, or give `ssp.data.Shards`."
            )
        try:
            self.iterator: Any = iter(iterator)
        except Exception as error:  # an array of no dimensions has `__iter__`, and refuses
            raise TypeError(
                f"{self} must return an iterator of batches, got {type(iterator).__name__}."
            ) from error
        self.batches: list[Tree] = []
        self.taken = 0
        self.only_numpy = True
        self._again = again
        self._fresh = getattr(self.iterator, "fresh", False) is True
        self._end: Exception | None = None  # what the iterator raised, once it has
        self._drawing: float | None = None  # since when it is asked for a batch
        # Where the iterator stood: before each of `batches`, before the first of all, and before
        # those that were taken last, by number.
        self._states: list[resuming.State] | None = None
        self._first: tuple[int, resuming.State] = 0, None
        self._past: deque[tuple[int, resuming.State]] = deque(maxlen=_PAST)
        if resuming.keeps_state(self.iterator):
            self._states = []
            self._first = 0, resuming.state_of(self.iterator)

    def __str__(self) -> str:
        return f"`data(worker={self.worker})`"

    @property
    def ended(self) -> bool:
        """Whether the iterator has no batch beside those that are drawn."""
        return isinstance(self._end, StopIteration)

    def waiting(self) -> tuple[int, float] | None:
        """For which batch the iterator is waited for, and for how long (seconds), if it is."""
        since = self._drawing
        if since is None:
            return None
        return self.taken + len(self.batches), time.monotonic() - since

    def ready(self, steps: int) -> int:
        """See `Feed.ready`."""
        left = steps
        if self.draw(steps) is None:
            if not self.ended:
                self.need(steps)
            left = len(self.batches)
        if left > 1 and kind_of(self.batches[left - 1]) != kind_of(self.batches[0]):
            ends_with_it = not self.draw(left + 1) and self.ended
            left -= ends_with_it  # if it does not end there, `take` says what is wrong
        return left

    def draw(self, steps: int) -> int | None:
        """Draw until `steps` batches wait here; None if the iterator does not give as many.

        Gives what tells them from others that may be drawn: how many they are, as there are none.
        """
        while len(self.batches) < steps:
            if self._end is not None:
                return None
            self._drawing = time.monotonic()
            try:
                self._draw()
            except Exception as error:  # raised where the batch is needed
                self._end = error
            self._drawing = None
        return steps

    def _draw(self) -> None:
        """Ask the iterator for a batch; raises what it raises, and what is wrong with the batch."""
        try:
            state = None if self._states is None else resuming.state_of(self.iterator)
            batch = next(self.iterator)
        except Exception as error:
            note(error, f"in {self._which}")
            raise
        mine = as_numpy(batch, self._fresh)
        if mine is None:
            self.only_numpy = False
            mine = taken(batch, self._which, self._fresh)
        self.batches.append(mine)
        if self._states is not None:
            self._states.append(state)

    @property
    def _which(self) -> str:
        """The batch that is drawn next, for messages."""
        return f"{self}, batch {self.taken + len(self.batches)}"

    def need(self, steps: int) -> int:
        """Draw until `steps` batches wait here; see `draw`.

        Raises:
            ValueError: if the iterator has ended before.
            Exception: what else it has raised.
        """
        if len(self.batches) < steps and not self.draw(steps):
            raise self._missing()
        return steps

    def _missing(self) -> Exception:
        """What says that there is no other batch."""
        assert self._end is not None
        if not self.ended:
            return self._end
        count = self.taken + len(self.batches)
        if not count:
            return ValueError(
                f"{self} gives no batch at all; its iterator was empty, or is used up: make a "
                "new one in each call, with at least one batch."
            )
        return ValueError(f"{self} ended after {count} batch{'es' * (count != 1)}.")

    def take(self, steps: int) -> None:
        """So many of the batches that are drawn are taken."""
        if self._states is not None:
            self._remember()
        self._pass(steps)

    def skip(self, steps: int) -> None:
        """Pass over so many batches, or as many as there are.

        Raises:
            Exception: what the iterator raised before it gave so many.
        """
        if self._states is not None:
            self._remember()
        for _ in range(steps):
            if not self.draw(1):
                if self.ended:
                    return
                self.need(1)
            self._pass(1)

    def _remember(self) -> None:
        """Where the iterator stands now, so that one can go back to here."""
        self._past.append((self.taken, self._state()))

    def _state(self) -> resuming.State:
        """Of the iterator, before the next batch that is taken."""
        return self._states[0] if self._states else resuming.state_of(self.iterator)

    def _pass(self, steps: int) -> None:
        del self.batches[:steps]
        if self._states is not None:
            del self._states[:steps]
        self.taken += steps

    # To be there again.

    def state(self) -> dict[str, Any]:
        """See `Feed.state`."""
        facts: dict[str, Any] = {"cursor": self.taken}
        if self._states is not None:
            facts |= resuming.as_facts(self._state())
        return facts

    def at(self, cursor: int, state: Mapping[str, Any] | None) -> Drawn:
        """See `Feed.at`."""
        cursor = integer("Feed.at(cursor=...)", cursor, least=0)
        known = None if state is None else resuming.of_facts(state)
        past = [] if state is None or known is None else [(int(state["cursor"]), known)]
        if cursor < self.taken:
            return self._standing(cursor, past)
        if self._states is not None and past and self.taken <= past[0][0] <= cursor:
            self._put(*past[0])
        self._forward(cursor)
        return self

    def rewound(self, cursor: int) -> Drawn:
        """See `Feed.rewound`."""
        return self._standing(cursor, self._past)

    def _standing(self, cursor: int, past: Iterable[tuple[int, resuming.State]]) -> Drawn:
        """One at this place: from the nearest state before it, or from the first batch."""
        iterator: Any = self.iterator
        if self._states is None:
            iterator = resuming.made_anew(iterator, self._again, str(self))
        elif self._again is not None:
            iterator = self._again()
        there = Drawn(iterator, self.worker, self._again)
        there._first = self._first
        if there._states is not None:
            before = (each for each in (self._first, *past) if each[0] <= cursor)
            there._put(*max(before, key=itemgetter(0)))
        there._forward(cursor)
        return there

    def _put(self, cursor: int, state: resuming.State) -> None:
        """Have the iterator stand here."""
        assert self._states is not None
        self.iterator.set_state(copy.deepcopy(state))
        self.batches.clear()
        self._states.clear()
        self.taken, self._end = cursor, None

    def _forward(self, cursor: int) -> None:
        """Pass over what was taken, up to here."""
        self.skip(cursor - self.taken)
        if self.taken < cursor:
            raise ValueError(
                f"{self} ended after {self.taken} batches, of which {cursor} were taken before: "
                "it must give a worker the same batches each time."
            )

    def check_goes_back(self) -> None:
        """See `Feed.check_goes_back`; to be asked before the first batch is taken."""
        if self._states is None:
            anew = Drawn(resuming.made_anew(self.iterator, self._again, str(self)), self.worker)
            for each in (self, anew):
                each.need(1)
            resuming.check_same(self.batches[0], anew.batches[0], str(self))
