"""What is known of a run, drawn for a terminal or written as a line."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jax_ssp.report.tables import format_number, format_seconds, histogram

RATE_SECONDS = 10.0  # the window of rates
RECENT = 256  # deltas that the mean staleness and the mean loss are of
MAX_ROWS = 16  # more workers than this are summed up

_COLOURS = {
    "running": "green",
    "waiting": "yellow",
    "finished": "dim",
    "ended": "dim",  # its data has
    "lost": "red",
}


@dataclass(slots=True)
class Seen:
    """What is known of a worker."""

    clock: int
    since: float
    state: str = "waiting"
    staleness: int | None = None
    loss: float | None = None

    @property
    def here(self) -> bool:
        """Whether it counts still."""
        return self.state not in ("ended", "lost")


class Look(NamedTuple):
    """How far a run was at a moment.

    Attributes:
        time: real (seconds).
        merged, samples: deltas, and the examples in them, while this was watching.
        share: of the way to the end (0 to 1).
    """

    time: float
    merged: int
    samples: int
    share: float


@dataclass
class RunState:
    """What is known of a run."""

    info: Mapping[str, Any]
    began: float
    now: float = 0.0
    version: int = 0
    updates: int = 0
    samples_seen: int = 0  # in all that is merged
    merged: int = 0  # deltas merged while this was watching
    steps: int = 0  # local steps of these
    samples: int = 0  # examples of these
    evaluation: str = ""
    waiting: str = ""  # whom all wait for, while they do
    status: str = "running"
    workers: dict[int, Seen] = field(default_factory=dict)
    staleness: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    looks: deque[Look] = field(default_factory=deque)

    ending: bool = False  # it was interrupted, and finishes
    over: bool = False

    @property
    def live(self) -> list[Seen]:
        return [worker for worker in self.workers.values() if worker.here]

    @property
    def min_clock(self) -> int:
        return min((worker.clock for worker in self.live), default=0)

    @property
    def total(self) -> float:
        """Updates at which the run ends at the latest; infinity if it need not end by itself."""
        clocks = self.info.get("num_clocks") or math.inf
        most = self.info.get("max_updates") or math.inf
        return min(most, clocks * self.info.get("num_workers", math.inf))

    @property
    def share(self) -> float:
        """How far it is to the end that comes first, 0 to 1; 0 where none is known."""
        done = {
            "num_clocks": self.min_clock,
            "max_updates": self.updates,
            "max_steps": self.steps,
            "max_samples": self.samples_seen,
        }
        shares = [count / self.info[end] for end, count in done.items() if self.info.get(end)]
        return min(1.0, max(shares, default=0.0))

    def rate(self, what: Literal["merged", "samples", "share"]) -> float:
        """How much of it comes in a second of real time, over the looks kept."""
        first, last = self.looks[0], self.looks[-1]
        took = last.time - first.time
        return (getattr(last, what) - getattr(first, what)) / took if took > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Real time to the end, at the present rate (seconds); None where it cannot be told."""
        rate = self.rate("share")
        return (1 - self.looks[-1].share) / rate if rate > 0 else None

    def look(self, now: float) -> None:
        self.looks.append(Look(now, self.merged, self.samples, self.share))
        while len(self.looks) > 2 and now - self.looks[1].time >= RATE_SECONDS:
            self.looks.popleft()

    def end(self, now: float, status: str) -> None:
        """It is over: the rates are those of the whole run."""
        self.waiting, self.status, self.over = "", status, True
        self.looks = deque([Look(self.began, 0, 0, 0.0)])
        self.look(now)


_ENDS = {
    "num_workers": "workers",
    "num_clocks": "clocks",
    "max_updates": "updates",
    "max_steps": "steps",
    "num_epochs": "epochs",
    "max_samples": "samples",
}


def title(run: RunState) -> str:
    info = run.info
    parts = [info.get("name"), info.get("policy")]
    parts += [f"{info[key]} {word}" for key, word in _ENDS.items() if info.get(key) is not None]
    return " · ".join(part for part in parts if part)


def remarks(run: RunState) -> list[str]:
    """What is to be said of the run once, at its start."""
    return [f"note: {remark}" for remark in run.info.get("remarks") or ()]


def line(run: RunState) -> str:
    total = f"/{run.total}" if run.total < math.inf else ""
    parts = [f"updates {run.updates}{total}", f"{format_number(run.rate('merged'), 3)}/s"]
    if run.samples:
        parts.append(f"{format_number(run.rate('samples'), 3)} samples/s")
    if not run.over and run.share:
        parts.append(_way(run))
    parts.append(f"version {run.version}")
    parts.append(f"lag {max((worker.clock for worker in run.live), default=0) - run.min_clock}")
    for name, recent in (("staleness", run.staleness), ("loss", run.losses)):
        if recent:
            parts.append(f"{name} {format_number(sum(recent) / len(recent), 3)}")
    return " · ".join(parts)


def _way(run: RunState) -> str:
    """How far it is, and how long it takes still."""
    left = "" if run.left is None else f", {format_seconds(run.left)} left"
    return f"{math.floor(100 * run.share)} %{left}"


def screen(run: RunState) -> RenderableType:
    kind = " (virtual)" if run.info.get("time") == "virtual" else ""
    return Group(
        Text(f"{title(run)} · {run.status} at {format_seconds(run.now)}{kind}", style="bold"),
        Text(line(run)),
        *([_whole(run)] if run.share and not run.info.get("num_clocks") else []),
        Text(run.evaluation, style="cyan"),
        *([Text(run.waiting, style="yellow")] if run.waiting else []),
        _table(run) if len(run.workers) <= MAX_ROWS else _summary(run),
    )


def _table(run: RunState) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("worker", "clock", "", "lag", "state", "staleness", "loss"):
        table.add_column(name, justify="left" if name in ("", "state") else "right")
    floor = run.min_clock
    for number, worker in sorted(run.workers.items()):
        table.add_row(
            str(number),
            *_clock(run, worker),
            str(worker.clock - floor) if worker.here else "",
            _state(run, worker),
            format_number(worker.staleness),
            format_number(worker.loss, 3),
        )
    return table


def _summary(run: RunState) -> Table:
    """For many workers: who is first and last, what all are doing, how far they are spread."""
    table = Table(box=None, show_header=False, pad_edge=False)
    states = Counter(worker.state for worker in run.workers.values())
    counts = [(f"{states[name]} {name}  ", _COLOURS[name]) for name in _COLOURS if states[name]]
    table.add_row("workers", Text.assemble(*counts))
    live = [item for item in run.workers.items() if item[1].here]
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


def _clock(run: RunState, worker: Seen) -> tuple[str, RenderableType]:
    total = run.info.get("num_clocks")
    if total is None:
        return str(worker.clock), ""
    return f"{worker.clock}/{total}", _bar(total, worker.clock, 16)


def _whole(run: RunState) -> RenderableType:
    """A bar for all workers together, where they have none of their own."""
    row = Table.grid()
    row.add_row(_bar(1.0, run.share))
    return row


def _bar(total: float, done: float, width: int = 40) -> RenderableType:
    return ProgressBar(total, done, width=width, complete_style="cyan")


def _state(run: RunState, worker: Seen) -> Text:
    text = worker.state
    if text in ("running", "waiting"):
        text += f" {format_seconds(run.now - worker.since)}"
    return Text(text, style=_COLOURS[worker.state])
