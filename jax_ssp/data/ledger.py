"""Who is given which batches of an elastic source, and what became of them.

An elastic source has as many batches in each epoch, whoever is there; they are numbered over all
epochs. The data of a worker is a function of the events of the run alone:

- At first, worker i of W is given the batches i, W + i, 2 W + i and so on, in this order, as it
  starts clocks; so an epoch whose batches do not divide by W ends in the midst of a round, and
  nobody waits for the next one.
- When a worker is lost, or joins after the start, what is left is *dealt anew*. What others run
  stays theirs, and so does what anybody has pushed. All other batches of the epochs that are begun,
  those among them that the lost worker ran, are given out in the order of their numbers, and then
  those of later epochs: of the workers that are there, by number, each takes its turn.
- A batch is *settled* when the delta of its clock is merged, or dropped, or its clock is cancelled;
  it is not given again.

So each batch is given out, and settled, once. The ledger knows nothing of time, threads or arrays;
`runtimes/dealing.py` tells it what happens, in the order of the tape.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jax_ssp.data.settled import Settled


class Deal(NamedTuple):
    """Batches in the order in which they are given out, and whose turn it is.

    Attributes:
        left: those of epochs that were begun.
        first: the number of the first one after; from there on all are given out.
        place: of each worker among those who take turns.

    Example:
        >>> deal = Deal(left=[4, 7], first=10, place={0: 0, 2: 1})
        >>> [deal.number(0, turn) for turn in range(3)], [deal.number(2, turn) for turn in range(3)]
        ([4, 10, 12], [7, 11, 13])
    """

    left: Sequence[int]
    first: int
    place: dict[int, int]

    def number(self, worker: int, turn: int) -> int:
        """The batch that is a worker's at its turn of that number, counted from 0."""
        at = turn * len(self.place) + self.place[worker]
        return self.left[at] if at < len(self.left) else self.first + at - len(self.left)


@dataclass(slots=True)
class _Seat:
    """What the ledger knows of a worker.

    Attributes:
        turn: its next one in the deal.
        given: how many batches it was given in all, without those that it gave back.
        last: the numbers of those that it was given last: of the clock that it runs or ran last,
            and of one granted ahead.
        ahead: of these, those of the clock granted ahead.
        token: of the clock that it runs; None if it runs none.
        stream: where it finds them; append-only, as its thread reads it.
    """

    turn: int = 0
    given: int = 0
    last: list[int] = field(default_factory=list)
    ahead: list[int] = field(default_factory=list)
    token: Hashable = None
    stream: list[int] = field(default_factory=list)


class Ledger:
    """The ledger of a run.

    Args:
        batches_per_epoch: of the source.
        num_workers: at the start: 0 to `num_workers` - 1, whether they have joined yet or not.

    Attributes:
        settled: what became of the batches of each epoch.

    Example:
        >>> ledger = Ledger(batches_per_epoch=6, num_workers=2)
        >>> ledger.started(0, token="a", steps=2), ledger.started(1, token="b", steps=1)
        ([0, 2], [1])
        >>> ledger.pushed(1, "b")
        >>> ledger.merged("b")
        >>> ledger.left(0)  # what it ran is given to worker 1
        >>> ledger.started(1, token="c", steps=3)
        [0, 2, 3]
    """

    def __init__(self, batches_per_epoch: int, num_workers: int) -> None:
        self._size = batches_per_epoch
        self._seats: dict[int, _Seat] = {}
        self.begin(num_workers)

    def begin(self, num_workers: int) -> None:
        """Nothing has happened yet, and so many workers are expected."""
        self._expected = set(range(num_workers))
        self._deal = Deal((), 0, {worker: worker for worker in range(num_workers)})
        self._clocks: dict[Hashable, list[int]] = {}  # by token: given out and not settled
        self._reach = 0  # the epochs that are begun
        self.settled = Settled(self._size)
        for worker, seat in self._seats.items():
            seat.stream.clear()
            self._seats[worker] = _Seat(stream=seat.stream)

    # Who is there.

    def joined(self, worker: int) -> None:
        """A worker is there."""
        if worker in self._expected:
            self._expected.discard(worker)
        elif worker not in self._deal.place:
            self._deal_anew((*self._deal.place, worker))

    def left(self, worker: int) -> None:
        """A worker is gone, and gives back what it ran, and what it was to run next.

        Should it come again, it has to `open` its batches again.
        """
        if worker not in self._deal.place:
            return
        self._expected.discard(worker)
        seat = self._seat(worker)
        back = seat.ahead if seat.token is None else self._clocks.pop(seat.token) + seat.ahead
        seat.given -= len(back)
        seat.token, seat.last, seat.ahead = None, [], []
        seat.stream = []  # whoever still reads for it finds what it was given
        self.settled.give_back(back)
        self._deal_anew(each for each in self._deal.place if each != worker)

    def _deal_anew(self, workers: Iterable[int]) -> None:
        place = {worker: place for place, worker in enumerate(sorted(workers))}
        left = self.settled.free(self._reach)
        self._deal = Deal(left, self._reach * self._size, place)
        for worker in place:
            self._seat(worker).turn = 0

    # What they do.

    def granted_ahead(self, worker: int, steps: int) -> None:
        """A worker may go on with its next clock, of at least so many steps."""
        seat = self._seat(worker)
        self._give(worker, seat, seat.ahead, steps)

    def started(self, worker: int, token: Hashable, steps: int) -> list[int]:
        """A worker starts a clock of so many steps; gives the numbers of its batches.

        Args:
            worker: who.
            token: of the clock.
            steps: batches that it takes.
        """
        seat = self._seat(worker)
        numbers, seat.ahead = seat.ahead, []
        seat.last = list(numbers)
        self._give(worker, seat, numbers, steps)
        seat.token = token
        self._clocks[token] = numbers
        return numbers

    def _give(self, worker: int, seat: _Seat, numbers: list[int], steps: int) -> None:
        """Give a worker batches until it has so many for a clock."""
        new = steps - len(numbers)
        fresh = [self._deal.number(worker, seat.turn + more) for more in range(new)]
        seat.turn += len(fresh)
        seat.given += len(fresh)
        numbers += fresh
        seat.last += fresh
        seat.stream.extend(fresh)
        if fresh:
            self.settled.give(fresh)
            self._reach = max(self._reach, max(fresh) // self._size + 1)

    def pushed(self, worker: int, token: Hashable) -> None:
        """A worker has finished a clock; if it runs another by now, that was late."""
        seat = self._seat(worker)
        if seat.token == token:
            seat.token = None

    def merged(self, token: Hashable) -> None:
        """The delta of a clock is merged."""
        self.settled.merged(self._clocks.pop(token))

    def dropped(self, token: Hashable) -> None:
        """The delta of a clock is dropped."""
        self.settled.dropped(self._clocks.pop(token))

    def cancelled(self, worker: int, token: Hashable) -> None:
        """A clock that runs is cancelled."""
        self._seat(worker).token = None
        self.dropped(token)

    def run_out(self) -> None:
        """All goes well until each epoch that is begun is over: what was given out is merged, and
        those who are there take their turns at the rest; if nobody is, worker 0 does."""
        for token in list(self._clocks):
            self.merged(token)
        if not self._deal.place:
            self._deal_anew([0])
        end = self._reach * self._size
        for worker in self._deal.place:
            seat = self._seat(worker)
            while seat.ahead or self._deal.number(worker, seat.turn) < end:
                self.started(worker, token := object(), max(1, len(seat.ahead)))
                self.merged(token)

    # What its thread asks.

    def following(self, worker: int) -> Iterator[int]:
        """The batches that a worker will be given next, as long as nobody comes or goes.

        Any thread may ask: at worst it is told what was so just now.
        """
        deal, turn = self._deal, self._seat(worker).turn
        if worker not in deal.place:  # one that is to join
            deal, turn = Deal((), deal.first, {worker: 0}), 0
        while True:
            yield deal.number(worker, turn)
            turn += 1

    def open(self, worker: int, cursor: int = 0) -> list[int]:
        """Where a worker that has taken so many batches finds the numbers of those that follow.

        The list grows as it is given more. What was opened for it before grows no more.

        Raises:
            ValueError: if it has taken others than those of the clock that it runs, or before.
        """
        seat = self._seat(worker)
        missing = seat.given - cursor
        if not 0 <= missing <= len(seat.last):
            raise ValueError(
                f"worker {worker} has taken {cursor} batches, but it was given {seat.given}, the "
                f"last {len(seat.last)} of them for the clock that it runs."
            )
        seat.stream = seat.last[len(seat.last) - missing :]
        return seat.stream

    def _seat(self, worker: int) -> _Seat:
        seat = self._seats.get(worker)
        if seat is None:
            seat = self._seats[worker] = _Seat()
        return seat
