"""The loop that all worlds share: events in, commands out.

Every event of the world is handed to the controller, event and answer are written on the tape, the
commands are carried out, and the observers are told. What passes here is numbers: arrays are in the
store, which hears what becomes of them in the order of the tape. One lock makes this one event at a
time: the thread of a worker that has finished a clock does it itself, so that no hand-over to
another thread stands between two clocks, and the order in which the lock is taken is the tape.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
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
)
from jax_ssp.controller.ends import Totals
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerLost,
)
from jax_ssp.controller.rows import Fold, Row
from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.base import Clock, Executor, World
from jax_ssp.runtimes.ending import Ending
from jax_ssp.runtimes.evaluating import Evaluations
from jax_ssp.runtimes.evaluation import Evaluator
from jax_ssp.runtimes.interrupts import Deferral
from jax_ssp.runtimes.observing import History, Observers, added
from jax_ssp.runtimes.server_hyperparameters import ServerHyperparameters
from jax_ssp.runtimes.version import Version
from jax_ssp.runtimes.watch import Watch
from jax_ssp.worker.waits import QUIET_SECONDS, Waiting

if TYPE_CHECKING:
    from jax_ssp.server.store import Store

LOCK_SECONDS = 2.0  # for what an observer is doing, once the run has failed


class Loop:
    """Carries a controller's commands out until its run is done.

    Attributes:
        status: how the run ended (see `Observer.on_end`); "failed" until it has.
        seconds: time of the last merge.
        totals: what is merged.
    """

    def __init__(
        self,
        controller: Controller,
        store: Store | None,
        tape: Tape,
        *,
        evaluator: Evaluator | None = None,
        observers: Observers | None = None,
        watch: Watch | None = None,
        held: Deferral | None = None,
        hyperparameters: ServerHyperparameters | None = None,
    ) -> None:
        self.controller = controller
        self.store = store
        self.clock: Clock  # since it entered a world, like the executor
        self.executor: Executor
        self.tape = tape
        self.status = "failed"
        self.seconds = 0.0
        self.totals = Totals()
        self._observers = observers or Observers()
        self._history = History(self._observers, hyperparameters)
        self._evaluations = Evaluations(evaluator, self._observers, partial(self._end, "target"))
        self._watch = Watch(list) if watch is None else watch
        self._held_back = Deferral() if held is None else held  # interrupts
        self._taking: float | None = None  # since when the lock is held
        self._lock = threading.RLock()
        self._closed = False  # nothing is taken any more
        self._over = False
        self._ending = Ending()
        self._fold = Fold()

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row for each settled delta (see `Observer.on_clock`)."""
        return self._history.rows

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """A row for each evaluation (see `Observer.on_eval`)."""
        return self._evaluations.rows

    def enter(self, world: World) -> None:
        """This is the world it will run in; from now on a signal requests an end there."""
        self.clock, self.executor = world.clock, world.executor
        self.executor.report = self.take
        self._held_back.when(self._interrupted)

    def run(self) -> None:
        """Run to the end."""
        if self.store is not None:
            self._evaluations.begin(self._newest(self.store))
        self.take(None)  # should somebody have asked for the end by now
        ran = None
        if self.store is None and not self._observers:
            ran = self.clock.run_clockwork(self.controller, self.tape)
        if ran is None:
            self._run()
        else:
            self.seconds, updates = ran
            self.totals = Totals(updates, self.controller.total_steps)
        self._closed = True
        self._over = True
        if self.store is not None:
            self._evaluations.finish(self._newest(self.store))
            if self.tape.complete:
                self.tape.params = self.store.fingerprint()
                self.clock.came_to(self.tape.params)
        self.status = self._ending.status(self.controller, self.tape.complete, self._is_finite)
        if self._held_back.count:
            self.status = "interrupted"

    def _run(self) -> None:
        with self._lock:  # nobody reports anything before all have joined
            while self.clock.joining and self._take_next():
                pass
        # Not `_closed`, which it is for a moment while another thread takes something.
        while not self.tape.complete and self._take_next():
            pass

    def _take_next(self) -> bool:
        """Take what happens next; gives whether anything can."""
        message = self.clock.next_event()
        if message is not None:
            self.take(*message)
        self._held_back.check()
        return message is not None

    def waits(self) -> list[Waiting]:
        """What everybody else may wait for just now; any thread may call this."""
        evaluating = self._evaluations.waits()
        taking, observer = self._taking, self._observers.telling
        if not evaluating and taking is not None and observer is not None:
            seconds = time.monotonic() - taking
            return [Waiting(None, f"{observer} runs", seconds, QUIET_SECONDS)]
        return evaluating or self.executor.waits()

    def end_early(self, reason: str) -> None:
        """An observer asks for the end; any thread may call this."""
        if self.clock.decides:
            self._ending.early(reason)
            self.clock.wake()

    def _interrupted(self) -> None:
        """Ask for the end; called in a signal handler."""
        self.clock.request_stop("interrupted")
        self._watch.asked_to_end()

    def take(
        self, what: Event | Future[Any] | None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Take in what happened just now; any thread may call this.

        Args:
            what: None says that the timer may be due.
            metrics: that came with a delta.
        """
        if what is None and not self._ending and self.clock.due() is None:
            return
        with self._lock:
            if what is None:
                what = self.clock.due()  # by now it may be set anew
            if self._closed or (what is None and not self._ending):
                return
            self._closed = True  # should something be raised, nothing more is taken
            self._taking = time.monotonic()
            if isinstance(what, Future):
                self._evaluations.take(what)
            elif what is not None:
                self._event(self.clock.now(), what, metrics)
            if self._ending:
                for reason in self._ending.asked(self.controller):
                    self._event(self.clock.now(), StopRequested(reason), None)
            self._closed = self.tape.complete = self.controller.done
            self._taking = None
            self._watch.happened()
            if self._closed:
                self.clock.wake()

    def fail(self, error: BaseException) -> None:
        """The run ends with an error: take nothing more, and say how it ended."""
        # Who holds the lock for longer hangs in the user's code, and takes nothing more either.
        held = self._lock.acquire(timeout=LOCK_SECONDS)
        self._closed = True
        self.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if held:
            self._lock.release()

    def _event(self, now: float, event: Event, metrics: Mapping[str, float] | None) -> None:
        if type(event) is TimerFired:
            self.clock.set_timer(None)
        elif type(event) is StopRequested and event.reason == "interrupted":
            self.executor.interrupted()
        commands = self.controller.handle(event, now)
        self.tape.append(now, event, commands)
        self.clock.answered(commands)
        rows = iter(self._fold.take(now, event, commands))
        late = len(commands) == 1 and type(commands[0]) is Fence  # nothing else follows from it
        if type(event) is DeltaReady:
            if metrics is not None and not late:
                self._history.metrics[event.token] = metrics
        elif type(event) is WorkerLost or (type(event) is WorkerDone and not late):
            self._ending.by_data |= type(event) is WorkerDone
            self._leaves(event.worker)
        for command in commands:
            self._carry_out(command, now, rows)
        if self._observers:
            self._observers.tell("on_entry", now, event, tuple(commands))

    def _carry_out(self, command: Command, now: float, rows: Iterator[Row]) -> None:
        """Do what a command says; `rows` gives the clocks that it settles."""
        match command:
            case StartClock():
                if self.store is not None:
                    self.store.lease(command)
                self.executor.start(command)
                self.clock.started(command)
            case StartAhead():
                self.executor.start_ahead(command)
            case Merge():
                self._merge(command, now, list(islice(rows, len(command.deltas))))
            case Cancel():
                self.executor.cancel(command)
                self.clock.cancelled(command)
                self._dropped(command.token)
                self._history.settled([next(rows)], self.totals)
            case Drop():
                self._dropped(command.token)
                self._history.settled([next(rows)], self.totals)
            case Fence():
                if command.token not in self._history.metrics:  # else it came twice, and is needed
                    self._dropped(command.token)
            case SetTimer(at):
                self.clock.set_timer(at)
            case StopWorker(worker):
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
        if not all(row.finite for row in rows) and not self._is_finite():
            self._end("diverged")
        self._history.merged(rows, self.totals)
        if self.store is not None and self._evaluations.wanted:
            self._evaluations.merged(self._newest(self.store), merge.num_workers)

    def _is_finite(self) -> bool:
        return self.store is None or self.store.finite()

    def _newest(self, store: Store) -> Version:
        at = self.controller.round_at(self.totals.samples)
        return Version(store.version, *self.totals, at, self.seconds, store)

    def _end(self, verdict: str) -> None:
        if self._over or self.clock.decides:
            self._ending.judged(verdict, self._over)
