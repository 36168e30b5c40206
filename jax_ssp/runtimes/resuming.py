"""How a run that was broken off goes on: from its tape, and from the newest cut that is good.

1. The rows of the tape before the cut are given to the controller alone, which must answer as it
   did; then all else becomes what was cut.
2. The rows behind the cut happen again: events come from the tape, and what comes with them is
   computed once more, so that nothing which is on the tape is lost. Without a cut all rows do.
3. `Resumed` begins a new term, and from there on the world says what happens.

What the run comes to is the same to the last bit as if it had never been broken off: in virtual
time, and wherever the order of events does not matter (barriers); elsewhere it is a run like any
other, and its tape replays as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from jax_ssp.controller.answers import check_answer
from jax_ssp.controller.commands import Cancel, Command, StartAhead, StartClock, is_fenced
from jax_ssp.controller.ends import TOTALS, Ends
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    Resumed,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.roster import FINISHED
from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.cut import Cut, take_up
from jax_ssp.runtimes.members import NOT_RESUMED
from jax_ssp.runtimes.recovery import ended_in, lost_in, times_lost
from jax_ssp.runtimes.saving import Saving
from jax_ssp.runtimes.tail import Arrivals, Tail

if TYPE_CHECKING:
    from jax_ssp.runtimes.loop import Loop
    from jax_ssp.worker.worker import Worker


def ended_by(
    event: Event, commands: Sequence[Command], running: Mapping[int, StartClock]
) -> Iterator[StartClock]:
    """The clocks that have come to their end with a row, pushed or cancelled.

    Args:
        event, commands: of the row.
        running: who ran which clock before it.
    """
    if isinstance(event, DeltaReady) and not is_fenced(commands):
        yield running[event.worker]
    for command in commands:
        if isinstance(command, Cancel):
            yield running[command.worker]


class Unfinished(NamedTuple):
    """What is left of a run that goes on.

    Attributes:
        tape: its rows, up to where it was broken off.
        cut: the newest good one; None if there is none.
        history, evaluations: their rows up to the cut.
        first_ends: the counts that were to end it, when it began.
        ends: those from now on.
    """

    tape: Tape
    cut: Cut | None
    history: Sequence[dict[str, Any]]
    evaluations: Sequence[dict[str, Any]]
    first_ends: Ends
    ends: Ends


class Keeper(Protocol):
    """Has a run saved while it goes, and knows what is left of it if it is to go on."""

    def tape(self) -> Tape | None:
        """The rows that are left of the run; None if it begins."""
        ...

    def past(self, header: Mapping[str, Any]) -> Unfinished | None:
        """What is left of the run; None if it begins. Its data is known to suit the workers.

        Args:
            header: of its tape, if it begins now.

        Raises:
            ValueError: if what is left is of another run, or may not go on.
        """
        ...

    def saving(self, half_way: Callable[[], object]) -> Saving | None:
        """Has it saved from now on.

        Args:
            half_way: called in each save while it is half written, so that faults can strike there.
        """
        ...

    def close(self) -> None:
        """The run is over: what is still being saved gets the time that is left."""
        ...


class Resuming:
    """Takes a loop from its first event to where the run was broken off.

    Args:
        loop: that has entered its world, and has the controller of the run's first term.
        past: of the run.
        workers: all of them; none where nothing is computed.
        num_workers: how many of them may be there from now on; others that it has are lost.
    """

    def __init__(
        self, loop: Loop, past: Unfinished, workers: Sequence[Worker], num_workers: int
    ) -> None:
        self._loop = loop
        self._num_workers = num_workers
        self._past = past
        self._workers = workers
        self._clock = loop.clock  # that goes on
        self._ahead: dict[int, list[StartAhead]] = {}  # by worker
        self._lost: set[int] = set()  # who has begun no clock since

    def run(self) -> None:
        """Do all of it; then the loop goes on, or is at its end.

        Raises:
            TapeMismatch: if what happens is not what has happened.
            ValueError: if the cut is not of such a run.
        """
        loop, past = self._loop, self._past
        first = self._pass_over()
        arrivals = Arrivals(loop, self._clock)
        loop.clock = tail = Tail(past.tape, first, arrivals, self._clock, loop.fold.running)
        loop.executor.report, loop.executor.report_all = arrivals.report, None
        if loop.donates:  # somebody may join in these rows, or once they are over
            loop.executor.arm(True)
        try:
            self._begin_again()
            while not (tail.is_over or loop.is_over) and loop.take_next():
                pass
            loop.clock = self._clock
            if not loop.is_over:
                self._go_on()
        finally:
            loop.clock, loop.executor.report = self._clock, loop.take
            loop.executor.report_all = loop.take_all
            arrivals.close()

    def _pass_over(self) -> int:
        """Have the rows before the cut behind, with all as it was cut; gives how many they are."""
        loop, past = self._loop, self._past
        rows = 0 if self._workers else len(past.tape)
        if past.cut is None:
            loop.begin()
        else:
            rows = past.cut.rows
        if rows > len(past.tape):
            raise ValueError(f"the tape has {len(past.tape)} rows, and the cut is at row {rows}.")
        for now, event, commands in islice(past.tape, rows):
            check_answer(now, event, commands, loop.controller.handle(event, now))
            for start in ended_by(event, commands, loop.fold.running):
                loop.executor.passed(start)
            loop.passed(now, event, commands)
            self._clock.passed(now, event, commands)
            self._note(event, commands)
        loop.records.rows.extend(past.history)
        loop.evaluating.rows.extend(past.evaluations)
        if past.cut is not None:
            take_up(loop, self._workers, past.cut)
        for worker in sorted(self._lost):
            loop.executor.lost(worker)
            if worker in loop.controller.workers:
                loop.executor.joined(worker)
        return rows

    def _note(self, event: Event, commands: Sequence[Command]) -> None:
        """Remember who may go on with which clock."""
        if isinstance(event, (WorkerLost, WorkerDone)) and not is_fenced(commands):
            self._ahead.pop(event.worker, None)
            self._lost.add(event.worker)
        elif isinstance(event, WorkerJoined) and event.donor is not None:
            self._lost.discard(event.worker)  # it has had a state since then
        for command in commands:
            match command:
                case StartAhead(worker):
                    self._ahead.setdefault(worker, []).append(command)
                case StartClock(worker, clock):
                    grants = self._ahead.get(worker, [])
                    self._ahead[worker] = [each for each in grants if each.clock == clock]
                    self._lost.discard(worker)
                case _:
                    pass

    def _begin_again(self) -> None:
        """Have the clocks begun that run at the cut, in the order in which they were started."""
        executor, done = self._loop.executor, {worker.index for worker in self._workers}
        by_worker = {worker.index: worker for worker in self._workers}
        for start in list(self._loop.fold.running.values()):
            mine = by_worker.get(start.worker)
            this, following = self._grants(start)
            if mine is None or not mine.is_dispatched:
                if this is not None and mine is not None and not mine.replica.ran:
                    executor.start_ahead(this)
                executor.start(start)
            if following is not None:
                executor.start_ahead(following)
            done.discard(start.worker)
        for worker in done:  # a clock that was granted, and may not be started yet
            for grant in self._ahead.get(worker, ()):
                due = grant.clock == self._loop.controller.clock(worker)  # or it is over
                if due and not by_worker[worker].replica.ran:
                    executor.start_ahead(grant)

    def _grants(self, start: StartClock) -> tuple[StartAhead | None, StartAhead | None]:
        grants = {each.clock: each for each in self._ahead.get(start.worker, ())}
        return grants.get(start.clock), grants.get(start.clock + 1)

    def _go_on(self) -> None:
        """Begin the new term, unless the run was over but for its last line."""
        loop, controller, ends = self._loop, self._loop.controller, self._past.ends
        natural = controller.ended is None or controller.ended in TOTALS
        self._clock.go_on()
        nobody = controller.ended is None and not controller.num_workers
        awaits = nobody and self._clock.awaits  # somebody who is lost comes again
        if controller.done and natural and ends == controller.ends and not awaits:
            loop.tape.complete = True
        else:
            loop.take(Resumed(controller.term + 1, *astuple(ends)))
            loop.executor.report_all = loop.take_all
            lost = [worker for worker in lost_in(loop.tape) if worker < self._num_workers]
            no_place = loop.executor.left_out()
            out = {each for each in controller.workers if each >= self._num_workers}
            out.update(each for each in no_place if each in controller.workers)
            there = [each for each in controller.workers if each not in out]
            there += ended_in(loop.tape)  # who is not to join again
            loop.executor.go_on(there, lost, times_lost(loop.tape))
            for worker in sorted(out):
                loop.take(WorkerLost(worker, NOT_RESUMED))
        for worker in controller.workers:
            if controller.phase(worker) is FINISHED:
                loop.executor.stop(worker)
