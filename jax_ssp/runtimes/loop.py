"""The loop that all worlds share: events in, commands out.

One thread hands every event of the world to the controller, writes both event and answer on the
tape, carries the commands out (it is here that deltas are merged), and tells the observers.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from jax_ssp.controller import Controller
from jax_ssp.controller.commands import (
    Command,
    Drop,
    Merge,
    Merged,
    SetTimer,
    StartClock,
    StopWorker,
)
from jax_ssp.controller.events import DeltaReady, Event
from jax_ssp.runtimes.base import Observer, Push, World
from jax_ssp.runtimes.evaluation import Evaluator
from jax_ssp.server import Server
from jax_ssp.tape import Tape


class Loop:
    """Carries a controller's commands out until its run is done.

    Attributes:
        history: a row for each settled delta (see `Observer.on_clock`).
        evaluations: a row for each evaluation (see `Observer.on_eval`).
        seconds: time of the last merge.
        updates: deltas merged.
    """

    def __init__(
        self,
        controller: Controller,
        server: Server | None,
        world: World,
        tape: Tape,
        *,
        evaluator: Evaluator | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.controller = controller
        self.server = server
        self.world = world
        self.tape = tape
        self.history: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.updates = 0
        self._evaluator = evaluator
        self._observers = observers
        self._verdict: str | None = None
        self._held: dict[int, int] = {}  # the version each worker holds
        self._started: dict[int, float] = {}
        self._pushes: dict[tuple[int, int], tuple[float, float, Push | None]] = {}

    def run(self) -> str:
        """Run to the end; gives the status of `Observer.on_end`."""
        with stop_on_interrupt(self.world.request_stop):
            while (message := self.world.receive()) is not None:
                now, what, push = message
                if isinstance(what, Future):
                    assert self._evaluator is not None
                    row = self._evaluator.take(what)
                    if row is not None:  # it was not passed over for a newer version
                        self._evaluated(row)
                else:
                    self._event(now, what, push)
                if self.controller.done:
                    self.tape.complete = True
                    break
        self._evaluate_last()
        ended = self.controller.ended
        if self._verdict or not self.tape.complete:
            return self._verdict or "stopped"
        return "done" if ended in (None, "max_updates") else ended

    def _event(self, now: float, event: Event, push: Push | None) -> None:
        commands = self.controller.handle(event, now)
        self.tape.append(now, event, commands)
        self.world.answered(commands)
        if type(event) is DeltaReady:
            start = self._started.pop(event.worker)
            self._pushes[event.worker, event.clock] = (start, now, push)
        for command in commands:
            self._carry_out(command, now)
        for observer in self._observers:
            observer.on_entry(now, event, commands)

    def _carry_out(self, command: Command, now: float) -> None:
        match command:
            case StartClock(worker=worker, version=version):
                snapshot = None
                if self.server is not None and self._held.get(worker) != version:
                    snapshot = self.server.snapshot(version)
                self._held[worker] = version
                self._started[worker] = now
                self.world.start(command, snapshot)
            case Merge():
                self._merge(command, now)
            case Drop(worker=worker, clock=clock):
                self._settled(Merged(worker, clock, -1, 0, 0), -1)
            case SetTimer(at):
                self.world.set_timer(at)
            case StopWorker(worker):
                self.world.stop(worker)

    def _merge(self, merge: Merge, now: float) -> None:
        self.seconds = now
        self.updates += len(merge.deltas)
        if self.server is not None:
            oldest = max(merge.deltas, key=lambda delta: delta.staleness)
            pushes = [self._pushes[delta.worker, delta.clock][2] for delta in merge.deltas]
            self.server.merge(
                [push.delta for push in pushes if push is not None],
                staleness=oldest.staleness,
                lag=oldest.lag,
                worker=oldest.worker,
                num_workers=merge.num_workers,
            )
        for delta in merge.deltas:
            self._settled(delta, merge.version)
        if self._evaluator is not None and self._evaluator.due(self.updates, merge.num_workers):
            self._evaluate(now)

    def _settled(self, delta: Merged, version: int) -> None:
        start, finish, push = self._pushes.pop((delta.worker, delta.clock))
        if push is None and not self._observers:
            return
        row = {
            "worker": delta.worker,
            "clock": delta.clock,
            "start": start,
            "finish": finish,
            "base_version": delta.base,
            "merge_version": version,
            "staleness": delta.staleness,
            "lag": delta.lag,
            "updates": self.updates,
            **(push.metrics if push is not None else {}),
        }
        if push is not None:
            self.history.append(row)
        for observer in self._observers:
            observer.on_clock(row)
        if not math.isfinite(row.get("loss", 0.0)):
            self._end("diverged")

    def _evaluate(self, now: float) -> None:
        assert self._evaluator is not None
        assert self.server is not None
        about = {"version": self.server.version, "updates": self.updates, "time": now}
        row = self._evaluator.submit(about, self.server.params)
        if row is not None:
            self._evaluated(row)

    def _evaluate_last(self) -> None:
        """The last version is always evaluated, after what is being evaluated still."""
        if self._evaluator is None or self.server is None:
            return
        for row in self._evaluator.drain():
            self._evaluated(row)
        if not self.evaluations or self.evaluations[-1]["version"] != self.server.version:
            self._evaluate(self.seconds)
            for row in self._evaluator.drain():
                self._evaluated(row)

    def _evaluated(self, row: dict[str, Any]) -> None:
        assert self._evaluator is not None
        self.evaluations.append(row)
        for observer in self._observers:
            observer.on_eval(row)
        if self._evaluator.reached(row):
            self._end("target")

    def _end(self, verdict: str) -> None:
        if self._verdict is None:
            self._verdict = verdict
            self.world.request_stop(verdict)


@contextmanager
def stop_on_interrupt(request_stop: Callable[[str], None]) -> Iterator[None]:
    """Turn the first Ctrl-C into a stop request; the second interrupts as usual.

    Running clocks are then finished and merged, so that the run ends whole. Outside the main
    thread, where Python has no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        request_stop("interrupted")

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
