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
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from jax_ssp.controller import Controller
from jax_ssp.controller.ends import Totals
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    Token,
    WorkerJoined,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.base import Donor, World
from jax_ssp.runtimes.carrying import Carrying
from jax_ssp.runtimes.collector import collecting_seldom
from jax_ssp.runtimes.interrupts import Deferral
from jax_ssp.runtimes.observing import Observers
from jax_ssp.runtimes.recovery import batches_taken
from jax_ssp.runtimes.saving import Saving
from jax_ssp.runtimes.watch import Watch
from jax_ssp.worker.waits import QUIET_SECONDS, Waiting

if TYPE_CHECKING:
    from jax_ssp.runtimes.evaluation import Evaluator
    from jax_ssp.runtimes.server_hyperparameters import ServerHyperparameters
    from jax_ssp.server.store import Store

LOCK_SECONDS = 2.0  # for what an observer is doing, once the run has failed


class Loop(Carrying):
    """Takes in what happens, one thing at a time, until its run is done.

    Args:
        controller, store, tape: of the run.
        evaluator, observers, hyperparameters: see `Carrying`.
        watch: says whom the run waits for.
        held: the interrupts that wait.

    Attributes:
        status: how the run ended (see `Observer.on_end`); "failed" until it has.
        saving: has it saved while it goes; None where nobody asked for that.
        donates: whether who joins takes over the state of a worker that is there.
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
        super().__init__(controller, store, tape, evaluator, observers, hyperparameters)
        self.status = "failed"
        self.saving: Saving | None = None
        self.donates = False
        self._watch = Watch(list) if watch is None else watch
        self._held_back = Deferral() if held is None else held  # interrupts
        self._lock = threading.RLock()
        self._closed = False  # nothing is taken any more

    def enter(self, world: World) -> None:
        """This is the world it will run in; from now on a signal requests an end there."""
        self.clock, self.executor = world.clock, world.executor
        self.executor.report, self.executor.report_all = self.take, self.take_all
        self.executor.taken = partial(batches_taken, self.tape)
        self.executor.donor = self._donor_now
        self.executor.excused = lambda: bool(self.evaluating.waits())
        self._held_back.when(self._interrupted)

    def begin(self) -> None:
        """The run begins, with version 0."""
        if self.store is not None:
            self.evaluating.begin(self.newest())

    def run(self) -> None:
        """Run to the end, once it has begun."""
        self.take(None)  # should somebody have asked for the end by now
        ran = None
        if self.store is None and not (self.observers.there or self.tape):
            with collecting_seldom():
                ran = self.clock.run_clockwork(self.controller, self.tape)
        if ran is None:
            self._run()
        else:
            self.seconds, updates = ran
            self.totals = Totals(updates, self.controller.total_steps)
        self._closed = True
        self.over = True
        suspended = self.saving is not None and self.saving.suspended
        if self.saving is not None and self.tape.complete:
            self.saving.finish(self)
        if self.store is not None and not suspended:
            self.evaluating.finish(self.newest())
            if self.tape.complete:
                self.tape.params = self.store.fingerprint()
                self.clock.came_to(self.tape.params)
        self.status = self.ending.status(self.controller, self.tape.complete, self.is_finite)
        if self._held_back.count or suspended:
            self.status = "interrupted"

    def _run(self) -> None:
        with self._lock:  # nobody reports anything before all have joined
            while self.clock.joining and not self.is_over and self.take_next():
                pass
            if self.donates:
                self.executor.arm(self.saving is not None and self.saving.armed)
            self.executor.invite()
        # Not `_closed`, which it is for a moment while another thread takes something.
        while not self.is_over and self.take_next():
            pass

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end, or was saved to be gone on with later."""
        return self.tape.complete or (self.saving is not None and self.saving.suspended)

    def take_next(self) -> bool:
        """Take what happens next; gives whether anything can."""
        message = self.clock.next_event()
        if message is not None:
            self.take(*message)
        self._held_back.check()
        return message is not None

    def waits(self) -> list[Waiting]:
        """What everybody else may wait for just now; any thread may call this."""
        evaluating = self.evaluating.waits()
        telling = self.observers.telling
        if not evaluating and telling is not None:
            observer, since = telling
            seconds = time.monotonic() - since
            return [Waiting(None, f"{observer} runs", seconds, QUIET_SECONDS)]
        return evaluating or self.executor.waits()

    def end_early(self, reason: str) -> None:
        """An observer asks for the end; any thread may call this."""
        if self.clock.decides:
            self.ending.early(reason)
            self.clock.wake()

    def _interrupted(self) -> None:
        """Ask for the end; called in a signal handler."""
        if self.saving is None:
            self.clock.request_stop("interrupted")
        else:
            self.saving.suspend()
            self.clock.wake()
        self._watch.asked_to_end()

    def take(
        self, what: Event | Future[Any] | None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Take in what happened just now; any thread may call this.

        Args:
            what: None says that the timer may be due.
            metrics: that came with a delta.
        """
        if what is None and not self._is_due():
            return
        with self._lock:
            if self._closed or (what is None and not self._is_due()):  # by now
                return
            self._closed = True  # should something be raised, nothing more is taken
            if type(what) is DeltaReady:
                self.happened(self.clock.now(), what, metrics)
            elif isinstance(what, Future):
                self.evaluating.take(what)
            else:
                self._take_rarer(self.clock.due() if what is None else what)
            if self.ending.due and not self.clock.has_more:  # else once the past has happened
                for reason in self.ending.asked(self.controller):
                    self.happened(self.clock.now(), StopRequested(reason), None)
            self._see_end()
            self._watch.happened()

    def _take_rarer(self, event: Event | None) -> None:
        """Take in an event that is no push; None if there is none, but somebody waits."""
        if type(event) is WorkerJoined and event.donor is None and not self.clock.has_more:
            event = self.executor.joins(event.worker)  # if it does not, it comes again
        if event is not None:
            self.happened(self.clock.now(), event, None)

    def _is_due(self) -> bool:
        """Whether the end is asked for, or a cut is waited for, or the timer is due."""
        armed = self.saving is not None and self.saving.armed
        return armed or bool(self.ending.due) or self.clock.due() is not None

    def _donor_now(self, asked: int | None) -> Donor | None:
        """Who gives its state to a worker that joins now; the one asked for, if that still can."""
        able = self.controller.donors() if self.donates else []
        return self.donor(asked if asked in able else next(iter(able), None))

    def take_all(self, events: Callable[[], Iterable[Event]]) -> None:
        """Take what this gives, asked while nothing else can happen; any thread may call it."""
        with self._lock:
            for event in events():
                self.take(event)
            if not self._closed:
                self._see_end()  # which may have hung on whoever it was about

    def _see_end(self) -> None:
        """See whether the run is over, or to be suspended."""
        over = self.controller.done and self._is_done()
        self.tape.complete = over
        if not over and self.saving is not None:
            self.saving.look(self)
            over = self.saving.suspended
        self._closed = over
        if over:
            self.clock.wake()

    def _is_done(self) -> bool:
        """Whether a run is over of which the controller has nothing more to do."""
        controller = self.controller
        if not len(self.tape) or self.clock.has_more:  # nobody is there yet, or not all again
            return False
        return controller.ended is not None or controller.num_workers > 0 or not self.clock.awaits

    def discard(self, token: Token) -> None:
        """Forget the payload of a clock; any thread may call this."""
        with self._lock:
            self._dropped(token)

    def fail(self, error: BaseException) -> None:
        """The run ends with an error: take nothing more, and say how it ended."""
        # Who holds the lock for longer hangs in the user's code, and takes nothing more either.
        held = self._lock.acquire(timeout=LOCK_SECONDS)
        self._closed = True
        self.status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if held:
            self._lock.release()
