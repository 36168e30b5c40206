"""What a person sees of a run while it goes: a live table on a terminal, plain lines elsewhere.

`_Run` keeps what is known of the run, `_header`, `_table` and `_summary` draw it for a terminal,
`_line` writes it as one line, and `Progress` decides when.
"""

from __future__ import annotations

import math
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jax_ssp import checks
from jax_ssp.controller.commands import Command, Merge, StartClock, StopWorker
from jax_ssp.controller.events import DeltaReady, Event, StopRequested, WorkerJoined, WorkerLost
from jax_ssp.report.tables import format_number, format_seconds, histogram
from jax_ssp.runtimes.base import EVAL_COLUMNS, Observer

LIVE_SECONDS = 1 / 8
LINE_SECONDS = 5.0
RATE_SECONDS = 10.0  # the window of updates/s
RECENT = 256  # deltas that the mean staleness and the mean loss are of
MAX_ROWS = 16  # more workers than this are summed up
MAX_COST = 1 / 20  # share of real time that drawing may take

_COLOURS = {"running": "green", "waiting": "yellow", "finished": "dim", "lost": "red"}


@dataclass(slots=True)
class _Worker:
    clock: int
    since: float
    state: str = "waiting"
    staleness: int | None = None
    loss: float | None = None


@dataclass
class _Run:
    """What is known of a run."""

    info: Mapping[str, Any]
    began: float
    now: float = 0.0
    version: int = 0
    updates: int = 0
    merged: int = 0  # deltas merged while this was watching
    evaluation: str = ""
    status: str = "running"
    workers: dict[int, _Worker] = field(default_factory=dict)
    staleness: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    samples: deque[tuple[float, int]] = field(default_factory=deque)  # (real time, merged)

    @property
    def live(self) -> list[_Worker]:
        return [worker for worker in self.workers.values() if worker.state != "lost"]

    @property
    def min_clock(self) -> int:
        return min((worker.clock for worker in self.live), default=0)

    @property
    def total(self) -> float:
        """Updates at which the run ends at the latest; infinity if it need not end by itself."""
        clocks = self.info.get("num_clocks") or math.inf
        most = self.info.get("max_updates") or math.inf
        return min(most, clocks * self.info.get("num_workers", math.inf))

    def rate(self) -> float:
        """Updates per second of real time, over the samples kept."""
        (begin, before), (end, after) = self.samples[0], self.samples[-1]
        return (after - before) / (end - begin) if end > begin else 0.0

    def sample(self, now: float) -> None:
        self.samples.append((now, self.merged))
        while len(self.samples) > 2 and now - self.samples[1][0] >= RATE_SECONDS:
            self.samples.popleft()


class Progress(Observer):
    """Shows a run while it goes.

    On a terminal: a header, and a table with one row a worker (with more than 16 workers, what
    they are doing in sum). Elsewhere: a line every few seconds and one for each evaluation. The
    seconds in the table are the run's own, virtual or wall; `updates/s` is in real time.

    Args:
        console: where to; standard error by default.
        interval: real time between two looks (seconds); 1/8 on a terminal and 5 elsewhere by
            default. Drawing takes no more than a twentieth of the time, however many workers.
        clock: gives real time (seconds); for tests.
    """

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
        self._console = Console(stderr=True) if console is None else console
        self._on_terminal = self._console.is_interactive
        default = LIVE_SECONDS if self._on_terminal else LINE_SECONDS
        self._interval = default if interval is None else interval
        self._clock = clock
        self._live: Live | None = None
        self._stop_live: Callable[[], object] = lambda: None
        self._begin({})

    def _begin(self, info: Mapping[str, Any]) -> None:
        now = self._clock()
        self._run = _Run(info, began=now)
        self._run.sample(now)
        self._due = now + self._interval

    def on_start(self, info: Mapping[str, Any]) -> None:
        self._stop_live()
        self._begin(dict(info))
        if not self._on_terminal:
            self._console.out(_title(self._run))
            return
        # Drawn by hand, from the controller's thread: no other thread, no lock. What is printed
        # meanwhile goes above the table, unless it goes to a file.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._stop_live = weakref.finalize(self, self._live.stop)  # even if the end never comes
        self._live.start()

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        run = self._run
        run.now = now
        if isinstance(event, DeltaReady):
            self._set(event.worker, event.clock + 1, "waiting")
        elif isinstance(event, WorkerJoined):
            before = run.workers.pop(event.worker, None)
            clock = max(run.min_clock, before.clock if before else 0)
            run.workers[event.worker] = _Worker(clock, now)
        elif isinstance(event, WorkerLost):
            self._set(event.worker, None, "lost")
        elif isinstance(event, StopRequested) and event.reason == "interrupted":
            self._interrupted()
        for command in commands:
            if isinstance(command, StartClock):
                self._set(command.worker, command.clock, "running")
            elif isinstance(command, Merge):
                run.version = command.version
            elif isinstance(command, StopWorker):
                self._set(command.worker, None, "finished")
        if self._clock() >= self._due:
            self._show()

    def _interrupted(self) -> None:
        """Say that the run ends, which takes as long as the clocks that are running."""
        self._run.status = "finishing the clocks under way (interrupt again to leave them)"
        if not self._on_terminal:
            self._console.out(f"interrupted: {self._run.status}")
        self._due = self._clock()

    def _set(self, worker: int, clock: int | None, state: str) -> None:
        row = self._run.workers.get(worker)
        if row is None:
            row = self._run.workers[worker] = _Worker(0, self._run.now)
        if clock is not None:
            row.clock = clock
        row.state = state
        row.since = self._run.now

    def on_clock(self, row: Mapping[str, Any]) -> None:
        run = self._run
        run.updates = row["updates"]
        loss = row.get("loss")
        if loss is not None:
            run.losses.append(loss)
        staleness = row["staleness"] if row["merge_version"] >= 0 else None
        if staleness is not None:
            run.merged += 1
            run.staleness.append(staleness)
        worker = run.workers.get(row["worker"])
        if worker is not None:
            worker.loss, worker.staleness = loss, staleness

    def on_eval(self, row: Mapping[str, Any]) -> None:
        names = [name for name in row if name not in EVAL_COLUMNS]
        metrics = " ".join(f"{name} {format_number(row[name], 3)}" for name in names)
        self._run.evaluation = f"eval at update {row['updates']}: {metrics}"
        if not self._on_terminal:
            self._console.out(self._run.evaluation)

    def on_end(self, status: str) -> None:
        run = self._run
        now = self._clock()
        run.samples = deque([(run.began, 0), (now, run.merged)])  # the rate of the whole run
        if not self._on_terminal:
            self._console.out(f"{status} after {format_seconds(now - run.began)} · {_line(run)}")
        elif self._live is not None:
            run.status = status
            self._live.update(_screen(run), refresh=True)
        self._stop_live()
        self._live = None

    def _show(self) -> None:
        begin = self._clock()
        self._run.sample(begin)
        if self._live is not None:
            self._live.update(_screen(self._run), refresh=True)
        elif not self._on_terminal:
            self._console.out(_line(self._run))
        end = self._clock()
        self._due = max(begin + self._interval, end + (end - begin) / MAX_COST)


def _title(run: _Run) -> str:
    info = run.info
    counts = {"num_workers": "workers", "num_clocks": "clocks", "max_updates": "updates"}
    parts = [info.get("name"), info.get("policy")]
    parts += [f"{info[key]} {word}" for key, word in counts.items() if info.get(key) is not None]
    return " · ".join(part for part in parts if part)


def _line(run: _Run) -> str:
    total = f"/{run.total}" if run.total < math.inf else ""
    parts = [f"updates {run.updates}{total}", f"{format_number(run.rate(), 3)}/s"]
    parts.append(f"version {run.version}")
    parts.append(f"lag {max((worker.clock for worker in run.live), default=0) - run.min_clock}")
    for name, recent in (("staleness", run.staleness), ("loss", run.losses)):
        if recent:
            parts.append(f"{name} {format_number(sum(recent) / len(recent), 3)}")
    return " · ".join(parts)


def _screen(run: _Run) -> RenderableType:
    kind = " (virtual)" if run.info.get("time") == "virtual" else ""
    return Group(
        Text(f"{_title(run)} · {run.status} at {format_seconds(run.now)}{kind}", style="bold"),
        Text(_line(run)),
        Text(run.evaluation, style="cyan"),
        _table(run) if len(run.workers) <= MAX_ROWS else _summary(run),
    )


def _table(run: _Run) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("worker", "clock", "", "lag", "state", "staleness", "loss"):
        table.add_column(name, justify="left" if name in ("", "state") else "right")
    floor = run.min_clock
    for number, worker in sorted(run.workers.items()):
        table.add_row(
            str(number),
            *_clock(run, worker),
            "" if worker.state == "lost" else str(worker.clock - floor),
            _state(run, worker),
            format_number(worker.staleness),
            format_number(worker.loss, 3),
        )
    return table


def _summary(run: _Run) -> Table:
    """For many workers: who is first and last, what all are doing, how far they are spread."""
    table = Table(box=None, show_header=False, pad_edge=False)
    states = Counter(worker.state for worker in run.workers.values())
    counts = [(f"{states[name]} {name}  ", _COLOURS[name]) for name in _COLOURS if states[name]]
    table.add_row("workers", Text.assemble(*counts))
    live = [item for item in run.workers.items() if item[1].state != "lost"]
    for name, extreme in (("slowest", min), ("fastest", max)):
        if live:
            number, worker = extreme(live, key=lambda item: item[1].clock)
            clock, bar = _clock(run, worker)
            state = _state(run, worker)
            table.add_row(name, Text.assemble(f"worker {number} at {clock}  ", state), bar)
    floor = run.min_clock
    table.add_row("lag", histogram(worker.clock - floor for _, worker in live))
    known = (worker.staleness for _, worker in live if worker.staleness is not None)
    table.add_row("staleness", histogram(known))
    return table


def _clock(run: _Run, worker: _Worker) -> tuple[str, RenderableType]:
    total = run.info.get("num_clocks")
    if total is None:
        return str(worker.clock), ""
    bar = ProgressBar(total, worker.clock, width=16, complete_style="cyan")
    return f"{worker.clock}/{total}", bar


def _state(run: _Run, worker: _Worker) -> Text:
    text = worker.state
    if text in ("running", "waiting"):
        text += f" {format_seconds(run.now - worker.since)}"
    return Text(text, style=_COLOURS[worker.state])
