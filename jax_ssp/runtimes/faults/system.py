"""What strikes the whole process, in real seconds: in virtual time too."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import ClassVar

from jax_ssp import checks
from jax_ssp.delays import LONGEST
from jax_ssp.runtimes.faults.base import Act
from jax_ssp.runtimes.interrupts import ask_to_end

_HELPER = 'kill -STOP "$0"; sleep "$1"; kill -CONT "$0"'
_CALL = 10**9  # microseconds, which fit into what the C library takes


@dataclass(frozen=True, repr=False)
class Standing(Act):
    """For some time nothing goes on in the whole process."""

    seconds: float = 70.0

    of_process: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "seconds", checks.number, least=0, most=LONGEST)
        if not hasattr(signal, "SIGSTOP"):
            raise self._refused("seconds", "it needs a POSIX system")


@dataclass(frozen=True, repr=False)
class HoldLock(Standing):
    """The interpreter's lock is held, as by a C extension that does not let go of it.

    No other thread of Python runs meanwhile. Nobody did anything wrong, and nobody is suspected.

    Args:
        seconds: for how long (real seconds).

    Raises:
        ValueError: if `seconds` is negative or not finite.

    Example:
        >>> HoldLock(worker=1, clock=2, seconds=0.5)
        HoldLock(worker=1, clock=2, seconds=0.5)
    """

    def act(self) -> None:
        usleep = ctypes.PyDLL(None).usleep  # `PyDLL` keeps the lock, as `CDLL` does not
        until = time.monotonic() + self.seconds
        while (left := until - time.monotonic()) > 0:  # a signal cuts it short
            usleep(ctypes.c_uint(min(_CALL, max(1, int(1e6 * left)))))


@dataclass(frozen=True, repr=False)
class Stopped(Standing):
    """The process is stopped (SIGSTOP), and continued by a helper process (SIGCONT).

    As when a terminal suspends it, or the machine sleeps. Nobody is suspected for it.

    Args:
        seconds: for how long (real seconds).

    Raises:
        ValueError: if `seconds` is negative or not finite.

    Example:
        >>> Stopped(at=30.0, seconds=5.0)
        Stopped(at=30.0, seconds=5.0)
    """

    def act(self) -> None:
        words = ["/bin/sh", "-c", _HELPER, str(os.getpid()), f"{self.seconds:.6f}"]
        subprocess.run(words, check=True, start_new_session=True)


@dataclass(frozen=True, repr=False)
class Kill(Act):
    """The process is killed (SIGKILL): nothing is saved, nobody is told.

    Args:
        life: of the run: 0 until it is resumed first, 1 until it is resumed again, and so on. In
            any other it does not strike, so a run that is resumed is not killed for ever.

    Raises:
        ValueError: if `life` is negative.

    Example:
        >>> Kill(phase="save", nth=2)
        Kill(phase='save', nth=2)
    """

    life: int = field(default=0, kw_only=True)

    of_process: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "life", checks.integer, least=0)

    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, repr=False)
class Terminate(Kill):
    """The process is asked to end (SIGTERM), as by a scheduler that takes its machine away.

    Args:
        life: of the run; see `Kill`.

    Raises:
        ValueError: if `life` is negative.

    Example:
        >>> Terminate(at=12.5)
        Terminate(at=12.5)
    """

    def act(self) -> None:
        ask_to_end()
