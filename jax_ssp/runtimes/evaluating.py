"""The versions of a run: who is told of them, when they are evaluated, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from jax_ssp.runtimes.observing import Observers
from jax_ssp.runtimes.version import Version
from jax_ssp.worker.waits import Waiting

if TYPE_CHECKING:
    from jax_ssp.runtimes.evaluation import Evaluator
    from jax_ssp.server.store import Store


class Evaluations:
    """Has versions evaluated as they are due, the first and the last one always.

    Args:
        evaluator: None where nobody asked for one.
        observers: told of each.
        reached: called once one of them has reached the target.

    Attributes:
        rows: one for each (see `Observer.on_eval`).
        wanted: whether anybody wants to know of versions.
    """

    def __init__(
        self, evaluator: Evaluator | None, observers: Observers, reached: Callable[[], None]
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._evaluator = evaluator
        self._observers = observers
        self._reached = reached
        self.wanted = evaluator is not None or observers.see_versions
        self._pending: list[Version] = []  # being evaluated, or to be
        self._doing: tuple[str, float] | None = None  # what takes as long as it takes

    def begin(self, first: Version) -> None:
        """The run begins: the first version is evaluated already."""
        self._made(first)
        if self._evaluator is not None:
            self._pending.append(first)
            self._done(self._evaluator.first)

    def merged(self, version: Version, num_workers: int) -> None:
        """A version was made; evaluate it if it is due.

        Args:
            version: the newest.
            num_workers: that took part.
        """
        self._made(version)
        if self._evaluator is not None and self._evaluator.due(version.updates, num_workers):
            self._evaluate(self._evaluator, version)

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is counted, and the versions that are being evaluated: facts, arrays by name."""
        if self._evaluator is None:
            return {}, {}
        arrays: dict[str, Any] = {}
        for version in self._pending:
            arrays |= version.held_arrays(f"{version.version}")
        points = [{**version.point(), "round": version.round} for version in self._pending]
        return {**self._evaluator.state, "pending": points}, arrays

    def load(self, facts: Mapping[str, Any], arrays: Mapping[str, Any], store: Store) -> None:
        """Go on with what was saved; what was being evaluated is evaluated again."""
        evaluator = self._evaluator
        if evaluator is None or not facts:
            return
        evaluator.go_on(facts)
        for point in facts["pending"]:
            version = Version(**point, _store=store)
            params = version.hold_arrays(f"{version.version}", arrays)
            self._pending.append(version)
            row = evaluator.submit(version.point(), params)
            if row is not None:
                self._done(row)

    def take(self, future: Future[Any]) -> None:
        """An evaluation aside is finished, unless it was passed over for a newer version."""
        assert self._evaluator is not None
        row = self._evaluator.take(future)
        if row is not None:
            self._done(row)

    def finish(self, last: Version) -> None:
        """The run is over: wait for what is being evaluated, then evaluate the last version."""
        if self._evaluator is None:
            return
        self._drain(self._evaluator)
        known = self.rows[-1]["version"] if self.rows else None  # none before it went on, perhaps
        if known != last.version:
            self._evaluate(self._evaluator, last)
            self._drain(self._evaluator)

    def waits(self) -> list[Waiting]:
        """That the run waits for an evaluation, if it does; any thread may ask."""
        doing = self._doing
        return [] if doing is None else [Waiting(None, doing[0], time.monotonic() - doing[1])]

    def _evaluate(self, evaluator: Evaluator, version: Version) -> None:
        self._doing = f"version {version.version} is evaluated", time.monotonic()
        params = version.hold(evaluator.is_aside and self._observers.see_evaluated)
        self._pending.append(version)
        row = evaluator.submit(version.point(), params)
        self._doing = None
        if row is not None:
            self._done(row)

    def _made(self, version: Version) -> None:
        if self._observers.see_versions:
            self._observers.see("on_version", version)

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
        while self._pending:
            version = self._pending.pop(0)  # or one that was passed over
            if version.version == row["version"]:
                if self._observers.see_evaluated:
                    self._observers.see("on_evaluated", version, row)
                break
        if self._evaluator.reached(row):
            self._reached()
