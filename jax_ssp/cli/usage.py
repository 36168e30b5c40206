"""What is wrong with what the user gave, as an error of its own, and where in the user's code."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


class UsageError(Exception):
    """What the user gave cannot be run; the message says what to change."""


class Ended(Exception):
    """The parser has said all there is to say, as after `--help`."""

    def __init__(self, code: object) -> None:
        self.code = code if isinstance(code, int) else int(code is not None)


@contextmanager
def parser_ends() -> Iterator[None]:
    """What a parser ends with, `--help` or a typo, in place of the process's end."""
    try:
        yield
    except SystemExit as end:
        raise Ended(end.code) from end


@contextmanager
def their_errors(file: Path) -> Iterator[None]:
    """Turn whatever the config file raises while it is read into a `UsageError` that says where."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError | TypeError) and _is_ours(error):
            raise UsageError(str(error)) from error
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        where = "".join(f"\n  at {frame}" for frame in user_frames(error))
        raise UsageError(f"{file} cannot be read: {what}{where}") from error


def user_frames(error: BaseException, most: int = 3) -> list[str]:
    """The innermost places in the user's own code that an error went through, the last one first.

    Not those in jax_ssp, in Python's own library or in what is installed.
    """
    others = [PACKAGE, Path(os.__file__).parent]
    others += [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    frames = [
        f"{frame.filename}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename[:1] != "<"
        and not any(other in Path(frame.filename).parents for other in others)
    ]
    return frames[::-1][:most]


@contextmanager
def usage_errors(unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turn an error that jax_ssp raises about what it was given into a `UsageError`.

    An error from anywhere else, the user's own code say, keeps its traceback.
    """
    try:
        yield
    except (ImportError, OSError, SyntaxError) as error:
        if unless() or isinstance(error, BrokenPipeError):
            raise
        raise UsageError(f"{type(error).__name__}: {error}") from error
    except (ValueError, TypeError) as error:
        if unless() or not _is_ours(error):
            raise
        raise UsageError(str(error)) from error


def _is_ours(error: Exception) -> bool:
    """Whether jax_ssp raised it."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return PACKAGE in raised_in.parents
