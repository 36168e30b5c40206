"""How observers are told: all of them, each once, whatever one of them does.

An observer that raises ends the run, but neither keeps the others from hearing the same, nor hides
what ended the run before. Rows are copied for each, so that none can change what others see.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jax_ssp.controller.ends import Totals
from jax_ssp.controller.events import Token
from jax_ssp.controller.rows import Row
from jax_ssp.failures import joined, note
from jax_ssp.files import say
from jax_ssp.records import within
from jax_ssp.runtimes.observer import Kept, Observer, check_name
from jax_ssp.runtimes.version import Version

if TYPE_CHECKING:
    from jax_ssp.runtimes.server_hyperparameters import ServerHyperparameters


def added(totals: Totals, merged: Sequence[Row]) -> Totals:
    """What is merged once these clocks are too."""
    for row in merged:
        totals = totals.and_of(row)
    return totals


def history_row(row: Row, totals: Totals, metrics: Mapping[str, float] | None) -> dict[str, Any]:
    """A settled clock as observers and `Result.history` have it.

    Args:
        row: of the fold.
        totals: what is merged by then.
        metrics: of the clock; None if there are none.
    """
    merged = row.merge_version >= 0
    return {
        "worker": row.worker,
        "clock": row.clock,
        "steps": row.steps,
        "samples": row.samples,
        "tokens": row.tokens,
        "start": row.start,
        "finish": row.finish,
        "base_version": row.base_version if merged else -1,
        "merge_version": row.merge_version,
        "staleness": row.staleness,
        "lag": row.lag,
        "weight": row.weight,
        "finite": row.finite,
        "updates": totals.updates,
        "samples_seen": totals.samples,
        "tokens_seen": totals.tokens,
        "metrics": {} if metrics is None else dict(metrics),
    }


class Observers:
    """The observers of a run.

    Attributes:
        there: whether there are any.
        telling: who is being told what just now, such as "Progress.on_clock", and since when (of
            `time.monotonic`); None otherwise.
        see_versions: whether one of them wants to see every version.
        see_evaluated: whether one wants to see those that are evaluated.
        kept: what they keep, by name, once the run is over.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)
        self.there = len(self._observers) > 0
        self._to_end: list[Observer] = []  # who is to be told the end
        self.telling: tuple[str, float] | None = None
        self.kept: dict[str, Kept] = {}
        self.see_versions = any(overrides(each, "on_version") for each in self._observers)
        self.see_evaluated = any(overrides(each, "on_evaluated") for each in self._observers)

    def start(self, info: Mapping[str, Any], ask: Callable[[str], object] | None = None) -> None:
        """The run begins; `ask` takes the reason for which an observer wants it to end."""
        self._to_end = list(reversed(self._observers))
        for each in self._observers:
            object.__setattr__(each, "_ask", ask)  # also one that is frozen
        self.tell("on_start", info)

    def end(self, status: str) -> None:
        """The run is over: observers are told in reverse order, each once."""
        observers, self._to_end = self._to_end, []
        try:
            self._tell(observers, "on_end", status)
        finally:
            for each in reversed(observers):
                object.__setattr__(each, "_ask", None)
            self._collect(tuple(reversed(observers)))

    def _collect(self, observers: Sequence[Observer]) -> None:
        """Take what each keeps, whatever the others do."""
        first: BaseException | None = None
        for each in observers:
            try:
                self._take(f"{type(each).__name__}.kept", each.kept())
            except BaseException as error:  # raised below
                first = error if first is None else joined(first, error)
        if first is not None:
            raise first

    def _take(self, whose: str, kept: Kept | None) -> None:
        """Something is kept, under a name of its own, such as "ema" or "ema-2"."""
        if kept is not None:
            name = check_name(whose, kept.name)
            same = sum(other.name == name for other in self.kept.values())
            self.kept[name if not same else f"{name}-{same + 1}"] = kept

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What they have come to, by their kinds: facts for JSON, and arrays by name."""
        facts: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        for which, each in self._by_kind():
            state = each.get_state()
            if state is not None:
                own = {name: value for name, value in state.items() if hasattr(value, "shape")}
                facts[which] = {name: value for name, value in state.items() if name not in own}
                arrays |= {f"{which}/{name}": array for name, array in own.items()}
        return facts, arrays

    def load(self, facts: Mapping[str, Any], arrays: Mapping[str, Any], version: Version) -> None:
        """Have them go on with it at this version, each with what one of its kind had come to."""
        with version.told():
            for which, each in self._by_kind():
                if which in facts:
                    each.set_state({**facts[which], **within(f"{which}/", arrays)}, version)
                elif each.get_state() is not None:
                    say(f"{type(each).__name__} begins anew: it is not in the run's checkpoint")

    def _by_kind(self) -> Iterator[tuple[str, Observer]]:
        """Each by the name of its class and its number among those: others may come and go."""
        count: Counter[str] = Counter()
        for each in self._observers:
            kind = type(each).__name__
            yield f"{kind}-{count[kind]}", each
            count[kind] += 1

    def see(self, method: str, version: Version, *what: Any) -> None:
        """Tell of a version, which can be read meanwhile."""
        with version.told():
            self.tell(method, version, *what)

    def tell(self, method: str, *what: Any) -> None:
        """Call a method of each with copies of what is a mapping.

        Raises:
            BaseException: the first error that one of them raised, once all have been told.
        """
        self._tell(self._observers, method, *what)

    def _tell(self, observers: Sequence[Observer], method: str, *what: Any) -> None:
        first: BaseException | None = None
        for observer in observers:
            told = f"{type(observer).__name__}.{method}"
            self.telling = told, time.monotonic()
            own = [_copy(each) if isinstance(each, dict) else each for each in what]
            try:
                getattr(observer, method)(*own)
            except BaseException as error:  # raised below
                note(error, f"in {told}")
                first = error if first is None else joined(first, error)
        self.telling = None
        if first is not None:
            raise first


class History:
    """The settled clocks of a run: a row of each is kept, where it has metrics, and told of.

    Args:
        observers: to tell.
        hyperparameters: of the server, if they are to be among the metrics of what it merges.

    Attributes:
        rows: those kept.
        metrics: of deltas that are not settled.
        told: how many rows observers were told of.
    """

    def __init__(
        self, observers: Observers, hyperparameters: ServerHyperparameters | None = None
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.metrics: dict[Token, Mapping[str, float]] = {}
        self.told = 0
        self._observers = observers
        self._hyperparameters = hyperparameters or None

    def merged(self, merged: Sequence[Row], totals: Totals) -> None:
        """What `settled` does, of what the server has merged just now."""
        if self._hyperparameters is not None:
            used = self._hyperparameters.read([row.clock for row in merged])
            for row in merged:
                if row.token in self.metrics:
                    self.metrics[row.token] = {**self.metrics[row.token], **used[row.clock]}
        self.settled(merged, totals)

    def settled(self, settled: Sequence[Row], totals: Totals) -> None:
        """Keep a row of each, then tell of them: an observer that raises leaves none out.

        Args:
            settled: of the fold.
            totals: what is merged by then.
        """
        there, told = self._observers.there, []
        for each in settled:
            metrics = self.metrics.pop(each.token, None)
            if metrics is not None or there:
                told.append(row := history_row(each, totals, metrics))
                if metrics is not None:
                    self.rows.append(row)
        if there:
            self.told += len(told)
            for row in told:
                self._observers.tell("on_clock", row)


def _copy(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of its own, its metrics too."""
    own = dict(row)
    if "metrics" in own:
        own["metrics"] = dict(own["metrics"])
    return own


def overrides(observer: Observer, method: str) -> bool:
    """Whether an observer has its own method of this name; on the instance will do."""
    own = getattr(observer, method)
    return getattr(own, "__func__", own) is not getattr(Observer, method)
