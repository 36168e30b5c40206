"""Signals that ask a run, or the whole process, to stop: counted, so that none is lost.

A handler may run anywhere: in a finalizer, or in a callback of the garbage collector, and what it
raises there is printed and forgotten. So it counts first; what it raises only helps to get out of
code that waits. Whoever can stop looks at the count.

    with listening(signal.SIGINT, signal.SIGTERM) as interrupts:
        ...                                     # a signal raises KeyboardInterrupt here
        interrupts.check()                      # and here, if that was swallowed
        with interrupts.deferred() as held:
            held.when(stop)                     # the first signal calls `stop`, the next raises
            ...
            held.check()                        # raises if there was a second one
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SIGNAL_SECONDS = 1.0  # Python may be deaf to a signal that comes just before a wait without an end


def _nothing() -> None:
    pass


class Deferral:
    """For a while the first signal is only reported, and each further one interrupts.

    Args:
        patience: how many are only reported.

    Attributes:
        count: signals since it began, and those before it that nobody saw.
    """

    def __init__(self, patience: float = 1) -> None:
        self.count = 0
        self._patience = patience
        self._tell: Callable[[], object] = _nothing
        self._after: Callable[[], object] = _nothing

    def when(self, tell: Callable[[], object], after: Callable[[], object] = _nothing) -> None:
        """Have the first signal call this, and call it now if one has come; perhaps twice.

        Args:
            tell: called in the signal's handler, so it must not wait for a lock.
            after: called at the end of a deferral within this one that took signals.
        """
        self._tell, self._after = tell, after
        if self.count:
            tell()

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a second signal, wherever that was swallowed."""
        if self.count > self._patience:
            raise KeyboardInterrupt

    def within(self, inner: Deferral) -> None:
        """A deferral within this one is over."""
        self.count += inner.count
        if inner.count:
            self._after()

    def came(self) -> None:
        """A signal came."""
        self.count += 1
        self.check()
        self._tell()


class Interrupts:
    """The signals that came while somebody listened; see `listening`.

    Attributes:
        count: how many there were, handled or swallowed.
    """

    def __init__(self) -> None:
        self.count = 0
        self._numbers: list[int] = []
        self._deferral: Deferral | None = None

    @property
    def terminated(self) -> bool:
        """Whether the process was asked to end by SIGTERM, and by nothing else."""
        return {*self._numbers} == {signal.SIGTERM}

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was any signal."""
        if self.count:
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self, patience: float = 1) -> Iterator[Deferral]:
        """Let the first signal wait until it suits; what came before and was swallowed counts.

        Args:
            patience: how many signals wait; the next one interrupts.
        """
        outer, deferral = self._deferral, Deferral(patience)
        deferral.count = min(1, self.count) if outer is None else 0
        self._deferral = deferral
        token = _deferral.set(deferral)
        try:
            yield deferral
        finally:
            _deferral.reset(token)
            self._deferral = outer
            if outer is not None:
                outer.within(deferral)

    def take(self, number: int) -> None:
        """Another process passes one on; any thread may call this."""
        with suppress(KeyboardInterrupt):  # it is raised where that is looked for
            self.handle(number, None)

    def handle(self, number: int, frame: Any) -> None:
        """The handler of the signals."""
        self._numbers.append(number)
        self.count += 1
        if self._deferral is None:
            raise KeyboardInterrupt
        self._deferral.came()


_listening: Interrupts | None = None  # in the main thread
_passed_on: Interrupts | None = None  # what another process passes on, in any thread
_deferral: ContextVar[Deferral] = ContextVar("deferral")


def deferring(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function take interrupts when it can; within it `current` gives what came."""

    @wraps(function)
    def deferred(*args: P.args, **kwargs: P.kwargs) -> T:
        with listening() as interrupts, interrupts.deferred():
            return function(*args, **kwargs)

    return deferred


def current() -> Deferral:
    """The innermost deferral of this thread."""
    return _deferral.get()


@contextmanager
def passed_on(interrupts: Interrupts) -> Iterator[None]:
    """Have whoever listens in this process, within, hear what another one passes on.

    Args:
        interrupts: whose `take` is called for each signal.
    """
    global _passed_on
    _passed_on = interrupts
    try:
        yield
    finally:
        _passed_on = None


def ask_to_end() -> None:
    """Send SIGTERM to this process, or to the run that another one has it carry out."""
    if _passed_on is None:
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        _passed_on.take(signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """Take SIGTERM in too, within `listening`, where it would end the process at once.

    Gives what says whether one came: then the process is to end, once all is saved.
    """
    if _passed_on is not None:
        theirs = _passed_on
        yield lambda: theirs.terminated
        return
    main = threading.current_thread() is threading.main_thread()
    if not main or _listening is None or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield lambda: False
        return
    interrupts = _listening
    signal.signal(signal.SIGTERM, interrupts.handle)
    try:
        yield lambda: interrupts.terminated
    finally:
        if signal.getsignal(signal.SIGTERM) == interrupts.handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def listening(*numbers: signal.Signals) -> Iterator[Interrupts]:
    """Take these signals in, by default SIGINT; where somebody listens already, it is theirs.

    Outside the main thread, where Python has no signals, none will come. Signals count even where
    they were ignored before, as in what a script started in the background: who sends one means it.
    Where a handler was not installed by Python it could not be put back, so it is left alone.
    """
    global _listening
    if _passed_on is not None:
        yield _passed_on
        return
    if threading.current_thread() is not threading.main_thread():
        yield Interrupts()
        return
    if _listening is not None:
        yield _listening
        return
    interrupts = _listening = Interrupts()
    handler = interrupts.handle
    before: dict[signal.Signals, Any] = {}
    try:
        for number in numbers or (signal.SIGINT,):
            was = signal.getsignal(number)
            if was is not None:
                signal.signal(number, handler)
                before[number] = was
        yield interrupts
    finally:
        _listening = None
        for number, was in before.items():
            if signal.getsignal(number) == handler:  # else somebody else's by now
                signal.signal(number, was)
