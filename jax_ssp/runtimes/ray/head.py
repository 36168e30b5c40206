"""In the actor of the controller: a whole run, that the process which calls `train` waits for.

The loop, the controller, the tape and the checkpoints are here, and the other actors are made here.
The driver passes on its signals, takes what is to be told there, and gets what has become of it.
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

from jax_ssp.checkpoint.lent import Lent
from jax_ssp.failures import in_words, notes
from jax_ssp.runtimes.interrupts import Interrupts, deferring, passed_on
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.ray.cluster import be_among
from jax_ssp.runtimes.ray.driver import Process, end_with
from jax_ssp.runtimes.ray.sent import apply


class Whole(NamedTuple):
    """A whole run, as the actor of its controller gets it.

    Attributes:
        run: carries it out, given the plan, the task, the observers, and whether to go on.
        plan, task: of the run, checked.
        observers: that travel with it.
        folders: that are written there.
        heard: what those are to be told who stay where `train` was called, by method.
        evaluates: whether one of them needs the run to evaluate.
        directory: that the process is to be in, as the one is that has begun the run.
    """

    run: Callable[..., Any]
    plan: Any
    task: Any
    observers: list[Observer]
    folders: list[Lent]
    heard: frozenset[str]
    evaluates: bool
    directory: str


class Failure(NamedTuple):
    """An error, on its way to another process.

    Attributes:
        error: pickled, without the result that it carries.
        trace: where it was raised, in words.
    """

    error: bytes
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """An error, as what it is; if it cannot be sent, as a RuntimeError that says what it is."""
        trace = "".join(traceback.format_exception(error))
        with suppress(Exception):
            del error.result  # pyright: ignore[reportAttributeAccessIssue]
        try:
            sent = dumped(error)
            pickle.loads(sent)
        except Exception:
            told = RuntimeError(f"the run was ended by {in_words(error)}")
            for each in notes(error):
                told.add_note(each)
            sent = dumped(told)
        return cls(sent, trace)

    def here(self) -> BaseException:
        """The error, with where it was raised as its cause."""
        error: BaseException = pickle.loads(self.error)
        error.__cause__ = Elsewhere(f"\n{self.trace}")
        return error


class Elsewhere(Exception):
    """Says where an error was raised in another process."""


class Over(NamedTuple):
    """What has become of a run.

    Attributes:
        result: of it; None if there is none.
        failure: what it was ended by, if it failed.
        heard: what is still to be told to those who stay.
        observers: what those who travel have come to, an attribute each, pickled.
        folders: what there is to know of each.
    """

    result: Any
    failure: Failure | None
    heard: list[Any]
    observers: list[dict[str, bytes]]
    folders: list[dict[str, Any]]


class Relay(Observer):
    """Writes down what those are to be told who stay where `train` was called.

    Args:
        methods: by which they are told.
        evaluates: whether one of them needs the run to evaluate.
    """

    def __init__(self, methods: frozenset[str], evaluates: bool) -> None:
        self.needs_evaluation = evaluates
        self._heard: deque[tuple[str, tuple[Any, ...]]] = deque()
        for method in methods:
            setattr(self, method, partial(self._hear, method))

    def on_start(self, info: Mapping[str, Any]) -> None:
        self._hear("on_start", {name: info[name] for name in info if name != "tape"})

    def on_end(self, status: str) -> None:
        self._hear("on_end", status)

    def _hear(self, method: str, *what: Any) -> None:
        self._heard.append((method, what))

    def heard(self) -> list[Any]:
        """What came since this was asked last."""
        return [self._heard.popleft() for _ in range(len(self._heard))]


class Head:
    """A controller, in a process of its own, which may be that of several runs in turn.

    Args:
        driver: with which it ends, if it is known.
    """

    def __init__(self, driver: Process | None) -> None:
        end_with(driver)
        self.rest()

    def rest(self) -> None:
        """Be nobody's."""
        self._interrupts = Interrupts()
        self._relay = Relay(frozenset(), False)

    def pid(self) -> int:
        """Of its process."""
        return os.getpid()

    def signal(self, number: int) -> None:
        """The driver has got this signal."""
        self._interrupts.take(signal.Signals(number))

    def heard(self) -> list[Any]:
        """What is to be told in the driver, since this was asked last."""
        return self._relay.heard()

    def ask(self, reason: str) -> None:
        """An observer in the driver asks for the end."""
        with suppress(RuntimeError):  # it is over
            self._relay.stop(reason)

    def run(
        self, settings: Mapping[str, Any], sent: list[Any], working_dir: str | None, resume: str
    ) -> bytes:
        """Carry a run out; gives what has become of it, an `Over`, pickled.

        Args:
            settings: of JAX, where the run was begun.
            sent: a reference to the run, in a list.
            working_dir: what the driver has shipped.
            resume: whether to go on with what its folder holds.
        """
        over = Over(None, None, [], [], [])
        try:
            with passed_on(self._interrupts):
                import ray

                apply(settings)
                be_among(working_dir)
                over = deferring(self._carried_out)(ray.get(sent[0]), resume)
        except BaseException as error:  # such as a signal that came before there was a run
            over = over._replace(failure=Failure.of(error))
        try:
            return dumped(over)
        except Exception as error:
            told = RuntimeError(f"what came of the run cannot be sent back: {in_words(error)}")
            return dumped(over._replace(result=None, failure=Failure.of(told)))

    def _carried_out(self, whole: Whole, resume: str) -> Over:
        os.chdir(whole.directory)
        self._relay, failure = Relay(whole.heard, whole.evaluates), None
        with ExitStack() as until:
            folders = [until.enter_context(each.borrowed()) for each in whole.folders]
            observers = [*folders, *whole.observers, self._relay]
            try:
                result = whole.run(whole.plan, whole.task, observers, resume)
            except BaseException as error:
                result, failure = getattr(error, "result", None), Failure.of(error)
        said = [each.said() for each in folders]
        left = [attributes(each) for each in whole.observers]
        return Over(result, failure, self._relay.heard(), left, said)


def attributes(observer: Observer) -> dict[str, bytes]:
    """What an observer has come to: its attributes, but for those that cannot be pickled."""
    left: dict[str, bytes] = {}
    for name, value in getattr(observer, "__dict__", {}).items():
        with suppress(Exception):
            left[name] = dumped(value)
    return left


def dumped(value: Any) -> bytes:
    """A value, pickled; what is of a file that was read as a config, with it."""
    from ray import cloudpickle

    return cloudpickle.dumps(value)


def restored(observers: Sequence[Observer], left: Sequence[Mapping[str, bytes]]) -> None:
    """Give observers here what those have come to that are they, elsewhere."""
    for observer, attributes in zip(observers, left, strict=False):  # none, if it has not begun
        for name, value in attributes.items():
            observer.__dict__[name] = pickle.loads(value)
