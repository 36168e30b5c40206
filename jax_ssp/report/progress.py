"""What a person sees of a run while it goes.

`screen.py` keeps what is known of the run, and draws it; `displays.py` has where it is shown;
`Progress` decides when. A display that fails, since its reader went away or for whatever reason, is
given up: nothing of it gets into the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from jax_ssp import checks
from jax_ssp.controller.commands import Command, Fence, Merge, StartClock, StopWorker
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.files import say
from jax_ssp.report.displays import display
from jax_ssp.report.screen import RunState, Seen
from jax_ssp.report.tables import format_number, format_seconds
from jax_ssp.runtimes.ending import told_reason
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.watch import describe
from jax_ssp.worker.waits import Waiting

MAX_COST = 1 / 50  # share of real time that drawing may take


class Progress(Observer):
    """Shows a run while it goes.

    On a terminal and in a notebook: a header, and a table with one row a worker (with more than 16
    workers, what they are doing in sum), drawn in place. Elsewhere: a line every few seconds and
    one for each evaluation. The seconds in the table are the run's own, virtual or wall; rates are
    in real time. Where nothing happens for long, it says whom all wait for.

    It never ends a run, nor holds one up: what cannot be shown is left out, and a display that
    fails is given up.

    Args:
        console: where to; by default the output of a notebook's cell, or else standard error.
        interval: real time between two looks (seconds); by default 1/8 on a terminal, 1/2 in a
            notebook and 5 elsewhere. Drawing takes no more than a fiftieth of the time, however
            many workers.
        clock: gives real time (seconds); for tests.
    """

    stays = True

    def __init__(
        self,
        console: Console | None = None,
        interval: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        must = "a `rich.console.Console`"
        console = checks.optional("Progress(console=...)", console, checks.instance, Console, must)
        interval = checks.optional("Progress(interval=...)", interval, checks.number, least=0)
        checks.function("Progress(clock=...)", clock, "() -> seconds")
        checks.number("Progress(clock=...)()", clock())
        self._display = display(console)
        self._failed = False
        self._lock = threading.RLock()  # `on_wait` comes from a thread of its own
        self._interval = self._display.seconds if interval is None else interval
        self._clock = clock
        self._begin({})

    def _begin(self, info: Mapping[str, Any]) -> None:
        now = self._clock()
        self._run = RunState(info, began=now)
        self._run.look(now)
        self._due = now + self._interval

    def on_start(self, info: Mapping[str, Any]) -> None:
        self._display.close()
        self._begin(dict(info))
        self._failed = False
        self._shown(lambda: self._display.begin(self._run))

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        try:
            with self._lock:
                self._take(now, event, commands)
                if self._clock() >= self._due:
                    self._show()
        except Exception as error:
            self._give_up(error)

    def _take(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        run = self._run
        run.waiting = ""
        run.now = now
        for command in commands:
            if isinstance(command, Fence):
                return  # what is late changes nothing
        if isinstance(event, DeltaReady):
            self._set(event.worker, event.clock + 1, "waiting")
        elif isinstance(event, WorkerJoined):
            before = run.workers.pop(event.worker, None)
            clock = max(run.min_clock, before.clock if before else 0)
            run.workers[event.worker] = Seen(clock, now)
        elif isinstance(event, WorkerLost):
            self._set(event.worker, None, "lost")
            if event.reason:
                self._tell(f"worker {event.worker} is lost ({event.reason})")
        elif isinstance(event, WorkerDone):
            self._set(event.worker, event.clock, "ended")
        elif isinstance(event, StopRequested):
            if event.reason == "interrupted":
                self._interrupted()
            elif told_reason(event.reason):
                self._tell(f"ends {event.reason}")
        for command in commands:
            if isinstance(command, StartClock):
                self._set(command.worker, command.clock, "running")
            elif isinstance(command, Merge):
                run.version = command.version
            elif isinstance(command, StopWorker):
                self._set(command.worker, None, "finished")

    def _interrupted(self) -> None:
        """Say that the run ends, which takes as long as the clocks that are running."""
        self._run.ending = True
        self._run.status = "finishing the clocks under way (interrupt again to leave them)"
        self._tell(f"interrupted: {self._run.status}")
        self._due = self._clock()

    def _set(self, worker: int, clock: int | None, state: str) -> None:
        row = self._run.workers.get(worker)
        if row is None:
            row = self._run.workers[worker] = Seen(0, self._run.now)
        if clock is not None:
            row.clock = clock
        row.state = state
        row.since = self._run.now

    def on_clock(self, row: Mapping[str, Any]) -> None:
        try:
            with self._lock:
                self._settle(row)
        except Exception as error:
            self._give_up(error)

    def _settle(self, row: Mapping[str, Any]) -> None:
        run = self._run
        run.updates, run.samples_seen = row["updates"], row["samples_seen"]
        loss = row["metrics"].get("loss")
        if loss is not None:
            run.losses.append(loss)
        staleness = row["staleness"] if row["merge_version"] >= 0 else None
        if staleness is not None:
            run.merged += 1
            run.steps += row["steps"]
            run.samples += row["samples"]
            run.staleness.append(staleness)
        worker = run.workers.get(row["worker"])
        if worker is not None:
            worker.loss, worker.staleness = loss, staleness

    def on_eval(self, row: Mapping[str, Any]) -> None:
        with self._lock:
            self._shown(lambda: self._evaluated(row))

    def _evaluated(self, row: Mapping[str, Any]) -> None:
        shown = (f"{name} {format_number(each, 3)}" for name, each in row["metrics"].items())
        metrics = " ".join(shown)
        count = row["passed_over"]
        passed = f" ({count} passed over)" if count else ""
        samples = f", {row['samples']} samples" if row["samples"] else ""
        self._run.evaluation = f"eval at update {row['updates']}{samples}: {metrics}{passed}"
        self._display.tell(self._run.evaluation)

    def on_wait(self, waits: Sequence[Waiting]) -> None:
        with self._lock:
            self._run.waiting = describe(waits, self._run.ending)
            self._tell(self._run.waiting)
            if self._display.in_place:
                self._show()

    def on_end(self, status: str) -> None:
        with self._lock:
            run = self._run
            now = self._clock()
            run.end(now, status)
            text = f"{status} after {format_seconds(now - run.began)}"
            self._shown(lambda: self._display.end(run, text))
            self._display.close()

    def _show(self) -> None:
        begin = self._clock()
        self._run.look(begin)
        self._shown(lambda: self._display.draw(self._run))
        end = self._clock()
        self._due = max(begin + self._interval, end + (end - begin) / MAX_COST)

    def _tell(self, text: str) -> None:
        self._shown(lambda: self._display.tell(text))

    def _shown(self, show: Callable[[], object]) -> None:
        """Show something, unless that has failed before, or its reader had to be waited for."""
        if self._failed or not self._display.has_room():
            return
        try:
            show()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        if not self._failed and not isinstance(error, OSError):
            say(f"the progress cannot be shown: {error!r}; the run goes on")
        self._failed = True
        self._display.close()
