"""How the command line ends: the exit codes, and what a signal or an error comes to.

0 done · 1 a bug, a proof that failed, or something of a run that could not be saved · 2 usage, an
unreadable file, a folder in use · 3 diverged · 130 interrupted, by whatever signal · 141 all is
saved, but nobody reads the output any more.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jax_ssp.cli.output import Steady, steady_streams, was_left
from jax_ssp.config_file import Ended, UsageError, user_frames
from jax_ssp.files import say
from jax_ssp.runtimes.interrupts import Interrupts, listening

DONE, BUG, USAGE, DIVERGED, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141
EXIT_CODES = {"diverged": DIVERGED, "interrupted": INTERRUPTED}
_NOT_SHOWN = ("JAX has removed its internal frames", "`.result`")  # notes for programmers
_TRACEBACK = "the whole traceback"
AGAIN_SECONDS = 0.05  # after which an interrupt that was swallowed comes again


def ended(command: Callable[[], int], own_process: bool) -> NoReturn:
    """Run a command and end the process with its exit code, whatever happens in it.

    Args:
        command: gives the exit code.
        own_process: whether the process is the command's; else errors that are bugs are raised.
    """
    signals = _signals()
    out: Steady | None = None
    if own_process:
        out, _ = steady_streams()
        sys.unraisablehook = _again_if_interrupt
    with listening(*signals) as interrupts:
        code, abrupt = _code_of(command, interrupts, own_process)
        if interrupts.count and code == DONE:
            code = INTERRUPTED
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
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, KeyboardInterrupt) or interrupts.count:
            say("interrupted")
            return INTERRUPTED, True
        if not own_process and isinstance(error, Exception):
            raise
        say(_told(error))
        return BUG, True


def _again_if_interrupt(unraisable: Any) -> None:
    """An interrupt that came in a finalizer, where Python drops it, comes again."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return

    def again() -> None:
        time.sleep(AGAIN_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    # Bare, as this may come while `threading` holds its lock to start another thread.
    with contextlib.suppress(RuntimeError):  # the interpreter is on its way out
        _thread.start_new_thread(again, ())


def _told(error: BaseException) -> str:
    """An error in a few lines: what, where in the user's code, and where the traceback is."""
    lines = [f"error: {in_a_word(error)}"]
    lines += [f"  at {frame}" for frame in user_frames(error)]
    notes = getattr(error, "__notes__", ())
    lines += [f"  {note}" for note in notes if not any(each in note for each in _NOT_SHOWN)]
    if not any(note.startswith(_TRACEBACK) for note in notes):
        place = Path(tempfile.gettempdir()) / f"jax-ssp-error-{os.getpid()}.txt"
        lines.append(f"  {note_traceback(error, place)}")
    return "\n".join(lines)


def in_a_word(error: BaseException) -> str:
    """An error's kind and message."""
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called before the run was over"
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def note_traceback(error: BaseException, file: Path) -> str:
    """Write an error's whole traceback to a file, or else print it; gives what to say of it."""
    text = "".join(traceback.format_exception(error))
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return f"{_TRACEBACK} can be written nowhere:\n{text}"
    return f"{_TRACEBACK} is in {file}"
