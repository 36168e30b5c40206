"""How observers are told: all of them, each once, whatever one of them does.

An observer that raises ends the run, but neither keeps the others from hearing the same, nor hides
what ended the run before. Rows are copied for each, so that none can change what others see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jax_ssp.controller.rows import Row
from jax_ssp.failures import joined, note
from jax_ssp.runtimes.observer import Observer


def history_row(row: Row, updates: int, metrics: Mapping[str, float] | None) -> dict[str, Any]:
    """A settled clock as observers and `Result.history` have it.

    Args:
        row: of the fold.
        updates: deltas merged by then.
        metrics: of the clock; None if there are none.
    """
    merged = row.merge_version >= 0
    return {
        "worker": row.worker,
        "clock": row.clock,
        "start": row.start,
        "finish": row.finish,
        "base_version": row.base_version if merged else -1,
        "merge_version": row.merge_version,
        "staleness": row.staleness,
        "lag": row.lag,
        "weight": row.weight,
        "finite": row.finite,
        "updates": updates,
        "metrics": {} if metrics is None else dict(metrics),
    }


class Observers:
    """The observers of a run; false if there are none.

    Attributes:
        telling: who is being told what just now, such as "Progress.on_clock"; None otherwise.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)
        self._to_end: list[Observer] = []  # who is to be told the end
        self.telling: str | None = None

    def __bool__(self) -> bool:
        return bool(self._observers)

    def start(self, info: Mapping[str, Any]) -> None:
        """The run begins."""
        self._to_end = list(reversed(self._observers))
        self.tell("on_start", info)

    def end(self, status: str) -> None:
        """The run is over: observers are told in reverse order, each once."""
        observers, self._to_end = self._to_end, []
        self._tell(observers, "on_end", status)

    def tell(self, method: str, *what: Any) -> None:
        """Call a method of each with copies of what is a mapping.

        Raises:
            BaseException: the first error that one of them raised, once all have been told.
        """
        self._tell(self._observers, method, *what)

    def _tell(self, observers: Sequence[Observer], method: str, *what: Any) -> None:
        first: BaseException | None = None
        for observer in observers:
            self.telling = f"{type(observer).__name__}.{method}"
            own = [_copy(each) if isinstance(each, dict) else each for each in what]
            try:
                getattr(observer, method)(*own)
            except BaseException as error:  # raised below
                note(error, f"in {self.telling}")
                first = error if first is None else joined(first, error)
        self.telling = None
        if first is not None:
            raise first


def _copy(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of its own, its metrics too."""
    own = dict(row)
    if "metrics" in own:
        own["metrics"] = dict(own["metrics"])
    return own
