"""What follows from an event: the controller's commands are carried out, in their order.

The store, the workers, the history and the observers hear of each event here, one after the other,
in every world alike. Who says what happens next is the loop's concern (`loop.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from jax_ssp.controller import Controller
from jax_ssp.controller.commands import (
    Cancel,
    Command,
    Drop,
    Fence,
    Merge,
    SetTimer,
    StartAhead,
    StartClock,
    StopWorker,
    is_fenced,
)
from jax_ssp.controller.ends import Totals
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.rows import Fold, Row
from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.bad_numbers import BadNumbers
from jax_ssp.runtimes.base import Clock, Donor, Executor
from jax_ssp.runtimes.ending import DIVERGED, Ending
from jax_ssp.runtimes.evaluating import Evaluations
from jax_ssp.runtimes.observing import History, Observers, added
from jax_ssp.runtimes.version import Version

if TYPE_CHECKING:
    from jax_ssp.runtimes.dealing import Dealing
    from jax_ssp.runtimes.evaluation import Evaluator
    from jax_ssp.runtimes.server_hyperparameters import ServerHyperparameters
    from jax_ssp.server.store import Store


class Carrying:
    """Carries a controller's commands out.

    Args:
        controller: of the run.
        store: where its arrays meet; None where nothing is computed.
        tape: where it is written down.
        evaluator: None where nobody asked for one.
        observers: told of what happens.
        hyperparameters: of the server, if they are to be among the metrics of what it merges.

    Attributes:
        clock, executor: of the world, once it has entered one.
        seconds: time of the last merge.
        totals: what is merged.
        over: whether nothing happens any more.
        dealing: told of each event, where the data is dealt; None where it is not.
        observers, records, evaluating, ending, fold: what is told, kept, evaluated, asked, settled.
        bad_numbers: counts clocks that are not finite.
    """

    clock: Clock
    executor: Executor

    def __init__(
        self,
        controller: Controller,
        store: Store | None,
        tape: Tape,
        evaluator: Evaluator | None = None,
        observers: Observers | None = None,
        hyperparameters: ServerHyperparameters | None = None,
    ) -> None:
        self.controller = controller
        self.store = store
        self.tape = tape
        self.seconds = 0.0
        self.totals = Totals()
        self.over = False
        self.dealing: Dealing | None = None
        self.observers = observers or Observers()
        self.records = History(self.observers, hyperparameters)
        self.evaluating = Evaluations(evaluator, self.observers, partial(self._end, "target"))
        self.bad_numbers = BadNumbers(None)
        self.ending = Ending()
        self.fold = Fold()

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row for each settled delta (see `Observer.on_clock`)."""
        return self.records.rows

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """A row for each evaluation (see `Observer.on_eval`)."""
        return self.evaluating.rows

    def passed(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """This has happened before, and all that followed from it is to be had elsewhere."""
        self.tape.append(now, event, commands)
        if self.dealing is not None:
            self.dealing(event, commands)
        rows = self.fold.take(now, event, commands)
        self.totals = added(self.totals, [row for row in rows if row.merge_version >= 0])
        if any(type(command) is Merge for command in commands):
            self.seconds = now
        late = is_fenced(commands)
        if not late:
            self.bad_numbers.take(event)
        self.ending.by_data |= type(event) is WorkerDone and not late

    def happened(self, now: float, event: Event, metrics: Mapping[str, float] | None) -> None:
        """An event: the controller answers it, and all that follows from it is done."""
        if type(event) is not DeltaReady:
            self._comes(event)
        commands = self.controller.handle(event, now)
        self.tape.append(now, event, commands)
        self.clock.answered(now, event, commands)
        if self.dealing is not None:
            self.dealing(event, commands)
        if type(event) is not DeltaReady:
            rows = self._changes(now, event, commands)
        else:
            rows = self.fold.take(now, event, commands)
            if not is_fenced(commands):
                if metrics is not None:
                    self.records.metrics[event.token] = metrics
                if not event.finite or self.bad_numbers.in_a_row:
                    self._look_at_numbers(event)
        self._carry_out(commands, now, iter(rows))
        if self.observers.there:
            self.observers.tell("on_entry", now, event, tuple(commands))

    def _comes(self, event: Event) -> None:
        """What follows from an event whatever it is answered."""
        if type(event) is TimerFired:
            self.clock.set_timer(None)
        elif (
            type(event) is StopRequested
            and event.reason == "interrupted"
            and not self.clock.has_more  # else it was before the run went on
        ):
            self.executor.interrupted()

    def _changes(self, now: float, event: Event, commands: Sequence[Command]) -> list[Row]:
        """Who is there by an event that is no push; gives the clocks that are settled by it."""
        begun = self.fold.running.get(event.worker) if type(event) is WorkerLost else None
        donor = self.donor(event.donor) if type(event) is WorkerJoined else None
        rows = self.fold.take(now, event, commands)
        if type(event) is WorkerLost or (type(event) is WorkerDone and not is_fenced(commands)):
            self.ending.by_data |= type(event) is WorkerDone
            self.executor.lost(event.worker)
            self._leaves(event.worker)
            if begun is not None:  # its delta may be there, though nobody has reported it
                self._dropped(begun.token)
        elif type(event) is WorkerJoined:
            self.executor.joined(event.worker, donor)
            self.bad_numbers.take(event)
        return rows

    def donor(self, worker: int | None) -> Donor | None:
        """A worker as the donor of one that joins just now, before anything is carried out."""
        if worker is None:
            return None
        waiting, weight = self.controller.waiting_of(worker), self.controller.weight_alone
        return Donor(worker, self.fold.running.get(worker), waiting, weight)

    def _carry_out(self, commands: Sequence[Command], now: float, rows: Iterator[Row]) -> None:
        """Do what commands say, in their order; `rows` gives the clocks that they settle."""
        for command in commands:
            match command:
                case StartClock():
                    if self.store is not None:
                        self.store.lease(command)
                    self.executor.start(command)
                    self.clock.started(command)
                case Merge():
                    self._merge(command, now, list(islice(rows, len(command.deltas))))
                case StartAhead():
                    self.executor.start_ahead(command)
                case Cancel():
                    self.executor.cancel(command)
                    self.clock.cancelled(command)
                    self._dropped(command.token)
                    self.records.settled([next(rows)], self.totals)
                case Drop():
                    self._dropped(command.token)
                    self.records.settled([next(rows)], self.totals)
                case Fence():
                    known = command.token in self.records.metrics
                    if not known:  # else it came twice, and is needed
                        self._dropped(command.token)
                case SetTimer(at):
                    self.clock.set_timer(at)
                case StopWorker(worker):
                    if not self.clock.has_more:
                        self.executor.stop(worker)
                    self._leaves(worker)

    def _dropped(self, token: Token) -> None:
        if self.store is not None:
            self.store.drop(token)

    def _leaves(self, worker: int) -> None:
        if self.store is not None:
            self.store.leave(worker)

    def _merge(self, merge: Merge, now: float, rows: list[Row]) -> None:
        if self.store is not None:
            self.store.merge(merge)
        self.seconds = now
        self.totals = added(self.totals, rows)
        self.records.merged(rows, self.totals)
        if self.evaluating.wanted and self.store is not None:
            self.evaluating.merged(self.newest(), merge.num_workers)

    def _look_at_numbers(self, event: DeltaReady) -> None:
        """End the run if the deltas of a worker are not finite any more, or the server is not."""
        why = self.bad_numbers.take(event)
        if why is not None:
            self._end(DIVERGED, why)
        elif not event.finite and not self.is_finite():
            self._end(DIVERGED)

    def is_finite(self) -> bool:
        """Whether the server is."""
        return self.store is None or self.store.finite()

    def newest(self) -> Version:
        """The newest version."""
        assert self.store is not None
        at = self.controller.round_at(self.totals.samples)
        return Version(self.store.version, *self.totals, at, self.seconds, self.store)

    def _end(self, verdict: str, why: str = "") -> None:
        if self.over or self.clock.decides:
            self.ending.judged(verdict, self.over, why)
