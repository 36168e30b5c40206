"""What is said of an exception, whatever kind of object the user's code has raised.

One may be a frozen dataclass, which takes no note and no attribute, or fail to print itself.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# What a process ends with that has run something: as documented, and as shells have it for signals.
DONE, BUG, USAGE, DIVERGED, TOO_FEW, AGAIN, INTERRUPTED, UNREAD = 0, 1, 2, 3, 4, 75, 130, 141

WHOLE_TRACEBACK = "the whole traceback"  # how a note begins that says where it is


def note(error: BaseException, text: str) -> None:
    """Add a note, once, if the exception takes any."""
    if text not in notes(error):
        with contextlib.suppress(Exception):
            error.add_note(text)


def notes(error: BaseException) -> list[str]:
    """The notes of an exception."""
    found = getattr(error, "__notes__", None)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def in_words(error: BaseException) -> str:
    """An exception's kind and message.

    Example:
        >>> in_words(ValueError("no such file")), in_words(MemoryError())
        ('ValueError: no such file', 'MemoryError')
    """
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception as broken:
        return f"{type(error).__name__} (whose text cannot be had: {type(broken).__name__})"


def in_a_word(error: BaseException) -> str:
    """The kind and message of an exception that ended a run."""
    if isinstance(error, SystemExit):
        return f"sys.exit({error.code!r}) was called before the run was over"
    return in_words(error)


def note_traceback(error: BaseException, file: Path) -> str:
    """Write an error's whole traceback to a file, or else print it; gives what to say of it."""
    text = "".join(traceback.format_exception(error))
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return f"{WHOLE_TRACEBACK} can be written nowhere:\n{text}"
    return f"{WHOLE_TRACEBACK} is in {file}"


def joined(first: BaseException, later: BaseException) -> BaseException:
    """The first of two errors, with a note of the later one."""
    if later is not first:
        where = "; ".join(notes(later))
        note(first, f"and then {in_words(later)}" + (f" ({where})" if where else ""))
    return first


def failed(error: BaseException) -> BaseException:
    """The same exception; but a RuntimeError for a `sys.exit` that would end in a success."""
    if not isinstance(error, SystemExit):
        return error
    code = error.code
    # Of a number the system keeps 8 bits: 256 is a success to whoever waits for the process.
    if code is not None and not (isinstance(code, int) and code & 0xFF == 0):
        return error
    where = "; ".join(notes(error) or ["by what it was given"])
    failure = RuntimeError(
        f"`sys.exit` was called in a run ({where}), with the code of a success; the run has "
        "failed. Raise an error there, or let an observer or a target end it."
    )
    failure.__cause__ = error
    return failure


def never_succeeding(function: Callable[P, T]) -> Callable[P, T]:
    """Have no `sys.exit` within a function end the process as a success; see `failed`."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except SystemExit as error:
            raise failed(error)  # noqa: B904

    return called
