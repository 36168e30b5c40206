"""How the command line ends: the exit codes, and what a signal or an error comes to.

0 done · 1 a bug, a proof that failed, or something of a run that could not be saved · 2 usage, an
unreadable file, a folder in use · 3 diverged · 4 too few workers · 75 ended by SIGTERM with a
checkpoint: run again, it goes on · 130 interrupted, by whatever signal · 141 all is saved, but
nobody reads the output any more.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jax_ssp.cli.output import Steady, steady_streams, was_left
from jax_ssp.cli.usage import Ended, UsageError, user_frames
from jax_ssp.failures import (
    AGAIN,
    BUG,
    DIVERGED,
    DONE,
    INTERRUPTED,
    TOO_FEW,
    UNREAD,
    USAGE,
    WHOLE_TRACEBACK,
    in_a_word,
    note_traceback,
    notes,
)
from jax_ssp.files import say
from jax_ssp.runtimes import ending
from jax_ssp.runtimes.interrupts import Interrupts, listening

EXIT_CODES = {ending.DIVERGED: DIVERGED, ending.TOO_FEW_WORKERS: TOO_FEW}  # by status
_NOT_SHOWN = ("JAX has removed its internal frames", "`.result`")  # notes for programmers


class Early:
    """What a signal does where nobody has asked for it: the process ends at once.

    Nothing is raised before something was trained: there is nothing to lose then, and what is being
    imported then, or the libraries that it calls, may swallow an interrupt, print it, or crash.

    Attributes:
        undo: what is to be done before that.
        trained: whether there is something to lose, so that an interrupt is raised.
        code: the exit code, once the command is over.
        resumable: whether the same command, run again, goes on from a checkpoint.
    """

    def __init__(self, own_process: bool = False) -> None:
        self.undo: list[Callable[[], object]] = []
        self.trained = False
        self.code: int | None = None
        self.resumable: Callable[[], bool] = lambda: False
        self._own_process = own_process
        self._interrupts = Interrupts()

    def listens_to(self, interrupts: Interrupts) -> None:
        """The signals of the command."""
        self._interrupts = interrupts

    @property
    def interrupted(self) -> int:
        """The exit code of a command that a signal has ended."""
        return AGAIN if self._interrupts.terminated and self.resumable() else INTERRUPTED

    def came(self) -> None:
        """A signal came; in its handler."""
        if not self._own_process or (self.trained and self.code is None):
            raise KeyboardInterrupt
        if self.code is None:
            for undo in reversed(self.undo):
                with contextlib.suppress(Exception):
                    undo()
            with contextlib.suppress(OSError):
                os.write(2, b"interrupted\n")  # `print` may be what it came into
        os._exit(self.interrupted if self.code is None else self.code)

    def passed(self) -> None:
        """A run that is no command's has taken a signal for itself, and is over."""
        if not self.trained:
            self.came()


early = Early()  # of the command that goes on


def ended(command: Callable[[], int], own_process: bool) -> NoReturn:
    """Run a command and end the process with its exit code, whatever happens in it.

    Args:
        command: gives the exit code.
        own_process: whether the process is the command's; else errors that are bugs are raised.
    """
    global early
    early = Early(own_process)
    signals = _signals()
    out: Steady | None = None
    if own_process:
        out, _ = steady_streams()
        sys.unraisablehook = _without_interrupts
        # The last of all: Python puts its own handlers back when it goes, but to those ignored.
        atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in signals])
    with listening(*signals) as interrupts, interrupts.deferred(math.inf) as held:
        early.listens_to(interrupts)
        held.when(early.came, after=early.passed)
        try:
            code, abrupt = _code_of(command, interrupts, own_process)
            code = INTERRUPTED if interrupts.count and code == DONE else code
            early.code = code
        except KeyboardInterrupt:  # another one, while it was said
            code, abrupt = early.interrupted, True
        if not own_process:
            sys.exit(code)
        for number in signals:  # all is done: who is in a hurry need not wait for the rest
            signal.signal(number, lambda *_: os._exit(code))
        if out is not None:
            out.flush()
            if out.failure is not None:
                code = UNREAD if code == DONE else code
                if not was_left(out):
                    say(f"standard output cannot be written: {out.failure}")
        sys.stderr.flush()
        if abrupt or out is None:
            # Threads may be compiling still; the interpreter's way out would crash in them, and
            # the exit code be lost. Whatever is to be written has been.
            os._exit(code)
        sys.exit(code)


def _signals() -> list[signal.Signals]:
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) == signal.SIG_DFL:  # not under nohup
        numbers.append(hangup)
    return numbers


def _code_of(
    command: Callable[[], int], interrupts: Interrupts, own_process: bool
) -> tuple[int, bool]:
    """The exit code, and whether the command was left in the middle."""
    try:
        return command(), False
    except Ended as end:
        return end.code, False
    except UsageError as error:
        say(f"error: {error}")
        return USAGE, False
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.count:
            say("interrupted")
            return early.interrupted, True
        if not own_process and isinstance(error, Exception):
            raise
        say(_told(error))
        return getattr(error, "exit_code", BUG), True


def _without_interrupts(unraisable: Any) -> None:
    """An interrupt that came in a finalizer, where Python prints and drops it, was counted."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def _told(error: BaseException) -> str:
    """An error in a few lines: what, where in the user's code, and where the traceback is."""
    lines = [f"error: {in_a_word(error)}"]
    lines += [f"  at {frame}" for frame in user_frames(error)]
    lines += [f"  {note}" for note in notes(error) if not any(each in note for each in _NOT_SHOWN)]
    if not any(note.startswith(WHOLE_TRACEBACK) for note in notes(error)):
        place = Path(tempfile.gettempdir()) / f"jax-ssp-error-{os.getpid()}.txt"
        lines.append(f"  {note_traceback(error, place)}")
    return "\n".join(lines)
