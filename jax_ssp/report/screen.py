"""What is known of a run, drawn for a terminal or written as a line."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jax_ssp.report.tables import format_number, format_seconds, histogram

RATE_SECONDS = 10.0  # the window of updates/s
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


@dataclass
class RunState:
    """What is known of a run."""

    info: Mapping[str, Any]
    began: float
    now: float = 0.0
    version: int = 0
    updates: int = 0
    merged: int = 0  # deltas merged while this was watching
    evaluation: str = ""
    waiting: str = ""  # whom all wait for, while they do
    status: str = "running"
    workers: dict[int, Seen] = field(default_factory=dict)
    staleness: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    samples: deque[tuple[float, int]] = field(default_factory=deque)  # (real time, merged)

    ending: bool = False  # it was interrupted, and finishes

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

    def rate(self) -> float:
        """Updates per second of real time, over the samples kept."""
        (begin, before), (end, after) = self.samples[0], self.samples[-1]
        return (after - before) / (end - begin) if end > begin else 0.0

    def sample(self, now: float) -> None:
        self.samples.append((now, self.merged))
        while len(self.samples) > 2 and now - self.samples[1][0] >= RATE_SECONDS:
            self.samples.popleft()


def title(run: RunState) -> str:
    info = run.info
    counts = {"num_workers": "workers", "num_clocks": "clocks", "max_updates": "updates"}
    parts = [info.get("name"), info.get("policy")]
    parts += [f"{info[key]} {word}" for key, word in counts.items() if info.get(key) is not None]
    return " · ".join(part for part in parts if part)


def line(run: RunState) -> str:
    total = f"/{run.total}" if run.total < math.inf else ""
    parts = [f"updates {run.updates}{total}", f"{format_number(run.rate(), 3)}/s"]
    parts.append(f"version {run.version}")
    parts.append(f"lag {max((worker.clock for worker in run.live), default=0) - run.min_clock}")
    for name, recent in (("staleness", run.staleness), ("loss", run.losses)):
        if recent:
            parts.append(f"{name} {format_number(sum(recent) / len(recent), 3)}")
    return " · ".join(parts)


def screen(run: RunState) -> RenderableType:
    kind = " (virtual)" if run.info.get("time") == "virtual" else ""
    return Group(
        Text(f"{title(run)} · {run.status} at {format_seconds(run.now)}{kind}", style="bold"),
        Text(line(run)),
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
    bar = ProgressBar(total, worker.clock, width=16, complete_style="cyan")
    return f"{worker.clock}/{total}", bar


def _state(run: RunState, worker: Seen) -> Text:
    text = worker.state
    if text in ("running", "waiting"):
        text += f" {format_seconds(run.now - worker.since)}"
    return Text(text, style=_COLOURS[worker.state])
