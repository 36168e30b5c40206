"""Where a run is shown: drawn on a terminal, line by line, or in a notebook's output, in place.

A display only shows; `Progress` says when, and catches what fails here.
"""

from __future__ import annotations

import contextlib
import io
import select
import sys
import weakref
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from jax_ssp.report.screen import RunState, line, remarks, screen, title
from jax_ssp.surroundings import is_terminal, surroundings

LIVE_SECONDS = 1 / 8
LINE_SECONDS = 5.0
NOTEBOOK_SECONDS = 1 / 2  # each look is a message to the browser
NOTEBOOK_WIDTH = 110  # letters
_HTML = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace\">{code}</pre>"
)


class Display:
    """Where a run is shown.

    Attributes:
        seconds: between two looks, by default (real time).
        in_place: whether what was shown before is replaced, so that all is to be seen at any time.
    """

    seconds: float
    in_place = True

    def begin(self, run: RunState) -> None:
        """A run begins."""

    def draw(self, run: RunState) -> None:
        """Show how far it is."""
        raise NotImplementedError

    def tell(self, text: str) -> None:
        """Say what has just happened, where it would not be seen otherwise."""

    def end(self, run: RunState, text: str) -> None:
        """The run is over, and the text says how."""
        self.draw(run)

    def close(self) -> None:
        """Give back what `begin` took; nothing happens the second time."""

    def has_room(self) -> bool:
        """Whether what is shown is taken at once, so that nobody has to wait."""
        return True


def display(console: Console | None) -> Display:
    """The display that suits a console; without one, that of this process."""
    if console is None and surroundings() == "notebook":
        return Notebook()
    console = Console(stderr=True) if console is None else console
    return Terminal(console) if console.is_interactive else Lines(console)


class _OnConsole(Display):
    def __init__(self, console: Console) -> None:
        console.on_broken_pipe = _broken_pipe
        self._console = console

    def has_room(self) -> bool:
        return _has_room(self._console)


class Terminal(_OnConsole):
    """A table that is drawn over and over in the same place."""

    seconds = LIVE_SECONDS
    _live: Live | None = None

    def begin(self, run: RunState) -> None:
        for remark in remarks(run):
            self._console.print(remark, highlight=False, markup=False)
        # Drawn by hand, from the controller's thread: no other thread draws but that of `on_wait`.
        # What is printed meanwhile goes above the table, unless it goes to a file.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=is_terminal(sys.stdout),
            redirect_stderr=is_terminal(sys.stderr),
        )
        self._close = weakref.finalize(self, _stop, self._live)  # even if the end never comes
        self._live.start()

    def draw(self, run: RunState) -> None:
        if self._live is not None:
            self._live.update(screen(run), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live = None
            self._close()


class Lines(_OnConsole):
    """A line now and then, for a pipe, a file, or a terminal that cannot do more."""

    seconds = LINE_SECONDS
    in_place = False

    def begin(self, run: RunState) -> None:
        for text in (title(run), *remarks(run)):
            self.tell(text)

    def draw(self, run: RunState) -> None:
        self.tell(line(run))

    def tell(self, text: str) -> None:
        self._console.out(_written(text, self._console))

    def end(self, run: RunState, text: str) -> None:
        self.tell(f"{text} · {line(run)}")


class Notebook(Display):
    """One output below the cell, whose content changes.

    The kernel sends it under an identifier, and the browser replaces what it has under that one; no
    widgets are needed for that.
    """

    seconds = NOTEBOOK_SECONDS
    _update: Callable[[dict[str, str]], object] | None = None

    def begin(self, run: RunState) -> None:
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        handle = display(self._output(run), raw=True, display_id=True)
        self._update = lambda output: handle.update(output, raw=True)

    def draw(self, run: RunState) -> None:
        if self._update is not None:
            self._update(self._output(run))

    def _output(self, run: RunState) -> dict[str, str]:
        return as_output(Group(*map(Text, remarks(run)), screen(run)))

    def close(self) -> None:
        self._update = None


def as_output(drawn: RenderableType) -> dict[str, str]:
    """What rich can draw as a notebook has it: in HTML, and in plain letters for other readers."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=NOTEBOOK_WIDTH,
        force_terminal=True,
        force_jupyter=False,
        color_system="truecolor",
        legacy_windows=False,
        _environ={},
    )
    console.print(drawn)
    html = console.export_html(inline_styles=True, code_format=_HTML, clear=False)
    return {"text/html": html, "text/plain": console.export_text()}


def _broken_pipe() -> None:
    """In place of rich's, which closes standard output and ends the process."""
    raise BrokenPipeError


def _stop(live: Live) -> None:
    with contextlib.suppress(Exception):
        live.stop()


def _has_room(console: Console) -> bool:
    """Whether what is written there is taken at once; a pipe that nobody empties is full."""
    try:
        _, ready, _ = select.select((), (console.file.fileno(),), (), 0)
    except (OSError, ValueError, AttributeError):
        return True  # it is no file of the system's, or a broken one, which writing shows
    return bool(ready)


def _written(line: str, console: Console) -> str:
    """A line in the letters that there are there."""
    try:
        line.encode(console.encoding)
    except UnicodeEncodeError:
        return line.replace(" · ", " | ").encode(console.encoding, "replace").decode()
    except LookupError:
        return line.encode("ascii", "replace").decode()
    return line
