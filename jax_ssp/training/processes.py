"""Jobs, each in a process of its own, so many at once: what they say, and how each ended.

A process is spawned, so it shares nothing with this one; and it is in a session of its own, so that
a terminal's Ctrl-C comes to this process alone, which passes it on once. What it prints goes to its
log. If this process is gone, it ends as after a signal.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

SIGNALS_BEFORE_KILL = 3  # passed on; who sends yet another one wants an end at any price
LOOK_SECONDS = 0.2

Work: TypeAlias = Callable[[Callable[[str], None]], int]
"""What a process does: (say what there is to show) -> exit code. It can be pickled."""


class Job(NamedTuple):
    """What one process is to do.

    Attributes:
        work: what it does.
        log: gets what it prints; its folder is there.
    """

    work: Work
    log: Path


class Ended(NamedTuple):
    """A process has ended.

    Attributes:
        job: its number.
        code: the exit code; minus the number of the signal that killed it; None if it was never
            started.
    """

    job: int
    code: int | None


class Said(NamedTuple):
    """A process has something to show."""

    job: int
    text: str


class Started(NamedTuple):
    """A process was started."""

    job: int


class Processes:
    """Runs jobs, at most so many at once; iterate over it for what happens.

    Args:
        jobs: what is to be done, in this order.
        most: how many processes at once.
        environment: variables that processes get which have no value here.
    """

    def __init__(self, jobs: Sequence[Job], most: int, environment: Mapping[str, str]) -> None:
        self._jobs = jobs
        self._most = most
        self._environment = environment
        self._running: dict[int, tuple[BaseProcess, Connection]] = {}
        self._signals = 0
        self._number = signal.SIGINT  # what is passed on

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """A signal came, perhaps just now: no more jobs start, and those that run shall end.

        Args:
            number: the signal, which is passed on.
        """
        self._signals += 1
        self._number = number if self._signals <= SIGNALS_BEFORE_KILL else signal.SIGKILL
        for process, _ in list(self._running.values()):
            _signal(process, self._number)

    def __iter__(self) -> Iterator[Started | Said | Ended | None]:
        """What happens, until all have ended; None now and then, where nothing does."""
        waiting = list(range(len(self._jobs)))
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._most and not self._signals:
                    number = waiting.pop(0)
                    self._start(number)
                    yield Started(number)
                if self._signals and waiting:
                    yield from (Ended(number, None) for number in waiting)
                    waiting = []
                yield from self._news()
        finally:
            self.close()

    def _start(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        job = self._jobs[number]
        arguments = (job.work, str(job.log), there, _settings())
        process = context.Process(target=_in_process, args=arguments, name=f"run {number}")
        with _inheriting(self._environment), _blocked_signals():
            process.start()
        there.close()
        self._running[number] = (process, here)
        if self._signals:  # it came while this one was started
            _signal(process, self._number)

    def _news(self) -> Iterator[Said | Ended | None]:
        waited: list[Any] = [each.sentinel for each, _ in self._running.values()]
        waited += [connection for _, connection in self._running.values() if not connection.closed]
        if waited and not wait(waited, LOOK_SECONDS):
            yield None
        for number, (process, connection) in list(self._running.items()):
            gone = not process.is_alive()
            yield from (Said(number, text) for text in _received(connection))
            if gone:
                process.join()
                connection.close()
                del self._running[number]
                yield Ended(number, process.exitcode)

    def close(self) -> None:
        """End all that run still: none outlives this one."""
        for process, _ in self._running.values():
            _signal(process, signal.SIGTERM)
        for process, _ in self._running.values():
            process.join(30)
            if process.is_alive():
                process.kill()
                process.join()
        self._running.clear()


def _received(connection: Connection) -> Iterator[str]:
    try:
        while not connection.closed and connection.poll():
            yield str(connection.recv_bytes(), errors="replace")
    except (EOFError, OSError):
        connection.close()


def _signal(process: BaseProcess, number: int) -> None:
    with contextlib.suppress(OSError, TypeError):
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)


@contextlib.contextmanager
def _inheriting(environment: Mapping[str, str]) -> Iterator[None]:
    """Have these variables where there are none, for processes that are started within."""
    added = {name: value for name, value in environment.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Have a process that is started within take no signal until it asks for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_TERMINALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_FROM_TERMINALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# --- in the process -----------------------------------------------------------------------------


def _in_process(work: Work, log: str, connection: Connection, settings: Mapping[str, Any]) -> None:
    """What a process does from its beginning to its end."""
    os.setsid()
    _print_to(log)
    _configure(settings)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def tell(text: str) -> None:
        with lock, contextlib.suppress(OSError):
            connection.send_bytes(text.encode(errors="replace"))

    # What a shell starts in the background ignores it, and so would this; but here it is meant.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FROM_TERMINALS)
    sys.exit(work(tell))


def _print_to(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        with contextlib.suppress(Exception):
            stream.flush()
        os.dup2(file, number)
    os.close(file)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # it has had its time to save
        os.kill(os.getpid(), signal.SIGTERM)


def _settings() -> dict[str, Any]:
    """JAX's settings here, also those of a context; those by environment variables come anyway."""
    if "jax" not in sys.modules:
        return {}
    import jax

    return {name: value for name, value in jax.config.values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _configure(settings: Mapping[str, Any]) -> None:
    """Set JAX as it is in the process that started this one."""
    if not settings:
        return
    import jax

    here = jax.config.values
    for name, value in settings.items():
        if name in here and here[name] != value:
            with contextlib.suppress(Exception):  # one that cannot be set any more
                jax.config.update(name, value)
