"""Evaluation of published versions, beside the workers or between their clocks."""

from __future__ import annotations

import contextlib
import math
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax

from jax_ssp import checks
from jax_ssp.checks import shown
from jax_ssp.placement import Place, Placement
from jax_ssp.runtimes.inbox import next_in
from jax_ssp.runtimes.interrupts import SIGNAL_SECONDS
from jax_ssp.runtimes.settings import Settings
from jax_ssp.server.store import Store
from jax_ssp.trees import Params, check_metrics
from jax_ssp.where import Where, check_where

CLOSE_SECONDS = 2.0  # for an evaluation to end, once a run has failed

EvalFn: TypeAlias = Callable[[Params], Mapping[str, Any]]


@dataclass(frozen=True)
class Target:
    """Ends a run once an evaluation's metric is good enough.

    Attributes:
        metric: name of a metric that `evaluate` gives.
        at_least: whether the metric is to reach `value` from below, or from above.
        value: the threshold, finite; reaching it exactly is enough, with a metric that is finite
            too: a loss of -inf reaches nothing.

    Example:
        >>> Target.parse("test_accuracy >= 0.97").reached({"test_accuracy": 0.98})
        True
    """

    metric: str
    at_least: bool
    value: float

    def __post_init__(self) -> None:
        checks.put(self, "metric", checks.text)
        checks.put(self, "at_least", checks.flag)
        checks.put(self, "value", checks.number)

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read "metric >= value" or "metric <= value"; ValueError for anything else."""
        text = checks.text("Target.parse(text=...)", text)
        found = re.fullmatch(r"\s*(\S+?)\s*(>=|<=)\s*(\S+)\s*", text)
        value = math.nan
        if found is not None:
            with contextlib.suppress(ValueError):
                value = float(found[3])
        if found is None or not math.isfinite(value):
            raise ValueError(
                f'`target` must read like "test_accuracy >= 0.97" or "loss <= 0.1", with a finite '
                f"number, got {checks.shown(text)}."
            )
        return cls(found[1], found[2] == ">=", value)

    def reached(self, metrics: Mapping[str, Any]) -> bool:
        """Are these metrics good enough? ValueError if the metric is not among them."""
        checks.instance("Target.reached(metrics=...)", metrics, Mapping, "a dict of numbers")
        if self.metric not in metrics:
            raise ValueError(
                f"`target` asks for {self.metric!r}, which is not among what `evaluate` gives: "
                f"{sorted(metrics)}."
            )
        value = metrics[self.metric]
        if not math.isfinite(value):
            return False
        return value >= self.value if self.at_least else value <= self.value


def check_evaluate_on(value: Any, field: str = "evaluate_on") -> Where:
    """Where to evaluate; see `check_where`."""
    must = '"host" (the CPU), or one device, such as "gpu:7" or a `jax.Device`'
    return check_where(value, field, must, "host")


def evaluation_device(
    where: Where, workers: Sequence[Place], server: Sequence[jax.Device], aside: bool
) -> Place:
    """The device, or the slice, to evaluate on.

    Args:
        where: what the user said.
        workers, server: the places of each.
        aside: whether evaluation runs while the workers do.
    """
    if where is not None:
        return Placement.at(where, "evaluate_on").device
    if not aside:
        return workers[0]
    busy = [one for each in workers for one in Placement.of(each).devices]
    return Placement.of(workers[0]).spare([*busy, *server]).place


class _Aside:
    """A thread that calls functions, one after the other.

    Python does not wait for it when it ends: a function that hangs holds nobody up.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._jobs = queue.SimpleQueue()
        self._idle: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="ssp-evaluation", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((future, function))
        return future

    def join(self) -> None:
        """Wait until all that was submitted is done."""
        self._jobs.put((Future(), lambda: self._idle.put(None)))
        while True:
            with contextlib.suppress(queue.Empty):
                return next_in(self._idle, SIGNAL_SECONDS)

    def close(self) -> None:
        self._closing = True
        self._jobs.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._closing:
            future, function = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # raised by who takes the result
                    future.set_exception(error)


class Evaluator:
    """Evaluates a version every so many clocks, the first one at once and the last one always.

    "Every k clocks" counts merged deltas: it is due each time k deltas for every worker have been
    merged, whoever made them, so that policies can be compared at equal numbers of updates.

    Args:
        fn: `params -> metrics`.
        every: clocks between evaluations; None evaluates the last version only.
        device: where `fn` gets its parameters, a copy that it may do with as it likes; on a slice
            it is called under the slice's mesh, and no worker of that slice computes meanwhile.
        store: whose newest version is evaluated. The first one is evaluated here and now, so that
            `fn` is compiled, and what is wrong with it is found, before any worker starts.
        target: when to end the run.

    Attributes:
        first: the first version's row.

    Raises:
        TypeError: if `fn` does not give a dict of numbers.
        ValueError: if it gives an array, or not the target's metric.
    """

    def __init__(
        self,
        fn: EvalFn,
        every: int | None,
        device: Place,
        store: Store,
        target: Target | None = None,
    ) -> None:
        self._fn = fn
        self._every = every
        self._place = Placement.of(device)
        self._store = store
        self._target = target
        self._next_at: int | None = None
        self._thread: _Aside | None = None
        self._post: Callable[[Future[Any]], None] | None = None
        self._under_way: list[Future[dict[str, Any]]] = []
        self._waiting = 0  # versions passed over for the one that waits
        nothing = dict.fromkeys(("version", "updates", "steps", "samples", "tokens"), 0)
        point = {**nothing, "time": 0.0, "passed_over": 0}
        self.first = self._row(point, store.params)
        self.reached(self.first)

    def go_aside(self, post: Callable[[Future[Any]], None]) -> None:
        """Evaluate in a thread of its own from now on, and have `post` take what is finished.

        A version that still waits there when a newer one comes is passed over.
        """
        self._post = post
        self._settings = Settings()
        self._thread = _Aside()

    @property
    def is_aside(self) -> bool:
        """Whether the run goes on while it evaluates."""
        return self._thread is not None

    def due(self, updates: int, num_workers: int) -> bool:
        """Is it time, now that this many deltas are merged?"""
        if self._every is None:
            return False
        step = self._every * num_workers
        if self._next_at is None:
            self._next_at = step
        if updates < self._next_at:
            return False
        while self._next_at <= updates:
            self._next_at += step
        return True

    @property
    def state(self) -> dict[str, Any]:
        """What it counts, as facts for JSON."""
        return {"next_at": self._next_at, "waiting": self._waiting}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Count on from such a state."""
        self._next_at, self._waiting = state["next_at"], state["waiting"]

    def submit(self, point: Mapping[str, Any], params: Params) -> dict[str, Any] | None:
        """Evaluate this version and give its row; with a thread, start to, and give None."""
        if self._thread is None:
            return self._row({**point, "passed_over": 0}, params)
        assert self._post is not None
        passed_over = 0
        if self._under_way and self._under_way[-1].cancel():
            self._under_way.pop()
            passed_over = self._waiting + 1
        self._waiting = passed_over
        point = {**point, "passed_over": passed_over}
        future = self._thread.submit(lambda: self._settings.run(self._row, point, params))
        self._under_way.append(future)
        future.add_done_callback(self._post)
        return None

    def take(self, future: Future[Any]) -> dict[str, Any] | None:
        """The row of a finished evaluation; None if it was passed over, or taken before.

        Raises:
            Exception: what `fn` raised.
        """
        if future not in self._under_way:
            return None
        self._under_way.remove(future)
        return future.result()

    def drain(self) -> list[dict[str, Any]]:
        """Wait for what is under way; gives its rows."""
        if self._thread is not None:
            self._thread.join()
        rows = [future.result() for future in self._under_way]
        self._under_way.clear()
        return rows

    def reached(self, row: Mapping[str, Any]) -> bool:
        """Does this row reach the target?"""
        return self._target is not None and self._target.reached(row["metrics"])

    def close(self) -> None:
        """Let go of the thread, and of what waits for it."""
        if self._thread is not None:
            self._thread.close()

    def _row(self, point: Mapping[str, Any], params: Params) -> dict[str, Any]:
        # A copy, since `fn` may take its memory over (donate it).
        with self._place.entered():
            metrics = self._fn(self._place.put(params, may_alias=False))
        if not isinstance(metrics, Mapping):
            raise TypeError(f"`evaluate` must return a dict of scalars, got {shown(metrics)}.")
        check_metrics("`evaluate`'s", metrics)
        return {**point, "metrics": {name: float(value) for name, value in metrics.items()}}
