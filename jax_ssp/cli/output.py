"""What the command line prints to: streams that never fail, whoever stops reading them."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any, TextIO


class Steady:
    """Stands in for a stream; what that one does not take is dropped.

    Attributes:
        failure: why something was dropped; None if nothing was.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: Exception | None = None
        with contextlib.suppress(Exception):
            # What the terminal has no letters for is written as \u1234.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._fails(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._fails(error)

    def _fails(self, error: Exception) -> None:
        if self.failure is None:
            self.failure = error
        with contextlib.suppress(Exception):  # so that what is in its buffer has a way out
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady_streams() -> tuple[Steady, Steady]:
    """Put steady streams in the place of standard output and standard error."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a standard stream was closed: no file of the run may come into its place
    os.close(fd)
    sys.stdout = out = Steady(sys.stdout or open(os.devnull, "w"))  # noqa: SIM115
    sys.stderr = err = Steady(sys.stderr or open(os.devnull, "w"))  # noqa: SIM115
    return out, err


def was_left(stream: Steady) -> bool:
    """Whether nobody reads a stream any more, which is no failure."""
    return isinstance(stream.failure, OSError) and stream.failure.errno == errno.EPIPE
