"""What a person sees of a sweep while it goes: one line a run."""

from __future__ import annotations

import contextlib
import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from jax_ssp.report.labels import shortened
from jax_ssp.report.progress import Progress
from jax_ssp.report.tables import format_seconds
from jax_ssp.surroundings import is_watched

State = Literal["running", "over", "to come", "not run"]
DRAW_SECONDS = 0.25
TELL_SECONDS = 1.0  # between two lines of a run


class SweepView:
    """Shows a sweep: in place on a terminal, and elsewhere a line for each start and end.

    Args:
        runs: name and seed of each.
        progress: whether to show anything; by default on a terminal and in a notebook.
        one_by_one: the runs are in this process and show themselves, so that nothing is drawn.
        console: where to; by default standard error.
        clock: gives real time (seconds); for tests.
    """

    def __init__(
        self,
        runs: Sequence[tuple[str, int]],
        progress: bool | None = None,
        *,
        one_by_one: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = [f"{name}, seed {seed}" for name, seed in runs]
        short = shortened([name for name, _ in runs])
        self._short = [f"{short[name]}, seed {seed}" for name, seed in runs]
        self._states: list[State] = ["to come"] * len(runs)
        self._told = [""] * len(runs)
        self._since = [0.0] * len(runs)
        self._clock = clock
        self._due = 0.0
        self._console = console or Console(stderr=True, force_jupyter=False)
        in_place = not one_by_one and self._console.is_interactive
        self._shown = is_watched() if progress is None else progress
        self._live = (
            Live(console=self._console, auto_refresh=False, get_renderable=self.screen)
            if in_place and self._shown
            else None
        )

    def __enter__(self) -> SweepView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self.draw(now=True)
            with contextlib.suppress(Exception):
                self._live.stop()

    def started(self, number: int) -> None:
        """A run has started."""
        self._states[number], self._since[number] = "running", self._clock()
        self._line(f"[{number + 1}/{len(self._names)}] {self._names[number]}")

    def said(self, number: int, text: str) -> None:
        """A run says how far it is."""
        self._told[number] = text

    def ended(self, number: int, how: str) -> None:
        """A run is over."""
        took = self._clock() - self._since[number]
        after = f" ({format_seconds(took)})" if self._states[number] == "running" else ""
        self._states[number] = "not run" if how == "not run" else "over"
        self._told[number] = f"{how}{after}"
        name = f"[{number + 1}/{len(self._names)}] {self._names[number]}"
        self._line(f"{name}: {self._told[number]}")

    def draw(self, now: bool = False) -> None:
        """Draw it anew, if it is time."""
        if self._live is not None and (now or self._clock() >= self._due):
            with contextlib.suppress(Exception):
                self._live.refresh()
            self._due = self._clock() + DRAW_SECONDS

    def _line(self, text: str) -> None:
        if self._shown and self._live is None:
            with contextlib.suppress(Exception):
                print(text, flush=True)

    def screen(self) -> RenderableType:
        """A line a run: those that go on, those that are over, those to come.

        What has no room is counted.
        """
        order: dict[State, int] = {"running": 0, "over": 1, "to come": 2, "not run": 3}
        numbers = sorted(range(len(self._names)), key=lambda each: order[self._states[each]])
        room = max(3, self._console.height - 3)
        table = Table.grid(padding=(0, 2))
        shown = [self._short[number] for number in numbers[:room]]
        widest = min(max(map(len, shown)), self._console.width // 2)
        table.add_column(no_wrap=True, min_width=widest, overflow="ellipsis")
        table.add_column(no_wrap=True, overflow="ellipsis")
        for number in numbers[:room]:
            state, told = self._states[number], self._told[number]
            if state == "running":
                told = f"{format_seconds(self._clock() - self._since[number])}  {told}"
            style = {"running": "green", "over": ""}.get(state, "dim")
            table.add_row(Text(self._short[number], style=style), Text(told or state, style=style))
        counts = Counter(self._states)
        said = " · ".join(f"{counts[state]} {state}" for state in order if counts[state])
        return Group(Text(f"{len(self._names)} runs: {said}", style="bold"), table)


class _Told(io.TextIOBase):
    """A file whose lines are told."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def write(self, text: str) -> int:
        if text.strip():
            self._tell(text.strip())
        return len(text)


def told_progress(tell: Callable[[str], None]) -> Progress:
    """The progress of a run as lines for somebody else to show."""
    console = Console(file=_Told(tell), width=1000, force_terminal=False)  # pyright: ignore
    return Progress(console, TELL_SECONDS)
