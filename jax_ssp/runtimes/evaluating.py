"""The evaluations of a run: when they are made, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from jax_ssp.runtimes.evaluation import Evaluator
from jax_ssp.runtimes.observing import Observers
from jax_ssp.worker.waits import Waiting


class Evaluations:
    """Has versions evaluated as they are due, the first and the last one always.

    Args:
        evaluator: None where nobody asked for one.
        observers: told of each.
        reached: called once one of them has reached the target.

    Attributes:
        rows: one for each (see `Observer.on_eval`).
    """

    def __init__(
        self, evaluator: Evaluator | None, observers: Observers, reached: Callable[[], None]
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._evaluator = evaluator
        self._observers = observers
        self._reached = reached
        self._doing: tuple[str, float] | None = None  # what takes as long as it takes

    @property
    def wanted(self) -> bool:
        """Whether anything is evaluated at all."""
        return self._evaluator is not None

    def begin(self) -> None:
        """The run begins: the first version is evaluated already."""
        if self._evaluator is not None:
            self._done(self._evaluator.first)

    def merged(self, point: dict[str, Any], num_workers: int) -> None:
        """A version was made; evaluate it if it is due.

        Args:
            point: its `version, updates, time`.
            num_workers: that took part.
        """
        if self._evaluator is not None and self._evaluator.due(point["updates"], num_workers):
            self._evaluate(self._evaluator, point)

    def take(self, future: Future[Any]) -> None:
        """An evaluation aside is finished, unless it was passed over for a newer version."""
        assert self._evaluator is not None
        row = self._evaluator.take(future)
        if row is not None:
            self._done(row)

    def finish(self, point: dict[str, Any]) -> None:
        """The run is over: wait for what is being evaluated, then evaluate the last version."""
        if self._evaluator is None:
            return
        self._drain(self._evaluator)
        if self.rows[-1]["version"] != point["version"]:
            self._evaluate(self._evaluator, point)
            self._drain(self._evaluator)

    def waits(self) -> list[Waiting]:
        """That the run waits for an evaluation, if it does; any thread may ask."""
        doing = self._doing
        return [] if doing is None else [Waiting(None, doing[0], time.monotonic() - doing[1])]

    def _evaluate(self, evaluator: Evaluator, point: dict[str, Any]) -> None:
        self._doing = f"version {point['version']} is evaluated", time.monotonic()
        row = evaluator.submit(point)
        self._doing = None
        if row is not None:
            self._done(row)

    def _drain(self, evaluator: Evaluator) -> None:
        self._doing = "the last versions are evaluated", time.monotonic()
        rows = evaluator.drain()
        self._doing = None
        for row in rows:
            self._done(row)

    def _done(self, row: dict[str, Any]) -> None:
        assert self._evaluator is not None
        self.rows.append(row)
        self._observers.tell("on_eval", row)
        if self._evaluator.reached(row):
            self._reached()
