"""What loggers have in common: points of a run, handed to a thread through a queue."""

from __future__ import annotations

import functools
import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from jax_ssp import checks
from jax_ssp.controller import Ends
from jax_ssp.files import say
from jax_ssp.report.loggers.sender import Sender
from jax_ssp.runtimes.observer import Observer, measures

_ENDS = (column.name for column in fields(Ends))
_ABOUT = ("name", "policy", "num_workers", "time", *_ENDS, "num_epochs")


@dataclass(eq=False, kw_only=True)
class Logger(Observer, ABC):
    """Sends a run's numbers to a tracker, from a thread of its own.

    A tracker that is slow never holds workers up: what it has not taken yet waits in a queue, and
    if too many points wait, new ones of clocks are dropped, and counted; evaluations never are. One
    that fails never ends a run: that is said once, on standard error, as is what was dropped.

    A point of `train/...` (the step's metrics) or `ssp/...` (`staleness`, `lag`, `clock_seconds`)
    is the mean over the clocks of an interval; evaluations are `eval/...`, each as it is. All are
    against `updates`, and come with `samples` and the run's own `seconds`.

    A tracker of your own is a subclass with `open`, `log` and `shut`, which are called in that
    thread, one after the other.

    Args:
        interval: of the clocks in a point (seconds of real time); 0 sends every clock.
        most_waiting: points that may wait.
        patience: how long the end of the run waits for what is still in the queue (seconds).

    Raises:
        TypeError, ValueError: if one of them cannot be that.
        ImportError: from the run, before anything is trained, if `package` is not there.

    Example:
        >>> import jax_ssp as ssp
        >>> class Printed(ssp.loggers.Logger):
        ...     def open(self, about):
        ...         print(about["policy"]["type"], about["num_workers"])
        ...     def log(self, values, updates):
        ...         print(updates, values["ssp/staleness"])
        ...     def shut(self, status):
        ...         print(status)
        >>> rehearsal = ssp.Virtual(num_workers=1, compute=False)
        >>> result = ssp.train(runtime=rehearsal, num_clocks=2, observers=[Printed(interval=0)])
        SSP 1
        1 0.0
        2 0.0
        done
    """

    interval: float = 1.0
    most_waiting: int = 1000
    patience: float = 30.0

    package = ""
    """What to import, which the extra of this package of the same name installs."""

    def __post_init__(self) -> None:
        checks.put(self, "interval", checks.number, least=0)
        checks.put(self, "most_waiting", checks.integer, least=1)
        checks.put(self, "patience", checks.number, least=0)
        self._sender: Sender | None = None
        self._forget()

    def _forget(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._row: Mapping[str, Any] = {}  # the last one in the sums
        self._due = 0.0

    @abstractmethod
    def open(self, about: Mapping[str, Any]) -> None:
        """A run begins; `about` holds what is known of it, as facts for JSON."""

    @abstractmethod
    def log(self, values: Mapping[str, float], updates: int) -> None:
        """A point: numbers by name, after so many updates; not always in their order."""

    @abstractmethod
    def shut(self, status: str) -> None:
        """The run is over; what was logged is to be with the tracker when this returns."""

    def check(self) -> None:
        if self.package:
            self.imported()

    def imported(self) -> Any:
        """The tracker's package.

        Raises:
            ImportError: if it is not there, naming what installs it.
        """
        try:
            return importlib.import_module(self.package)
        except ImportError as error:
            raise ImportError(
                f"`{type(self).__name__}` needs the package {self.package!r} ({error}); install it "
                f"with `pip install 'jax_ssp[{self.package}]'`."
            ) from error

    # What is told of the run, in whoever's thread.

    def on_start(self, info: Mapping[str, Any]) -> None:
        self._forget()
        self._due = time.monotonic() + self.interval
        about = {name: info.get(name) for name in _ABOUT} | dict(info.get("experiment", {}))
        name = type(self).__name__
        told = f"{name} takes nothing more, and the run goes on without it"
        self._sender = Sender(
            f"ssp-{name}", self.most_waiting, lambda why: say(f"jax_ssp: {told}: {why}")
        )
        self._sender.put(functools.partial(self.open, about))

    def on_clock(self, row: Mapping[str, Any]) -> None:
        for group, values in (("train", row["metrics"]), ("ssp", measures(row))):
            for name, value in values.items():
                entry = self._sums.setdefault(f"{group}/{name}", [0.0, 0])
                entry[0] += float(value)
                entry[1] += 1
        self._row = row
        if time.monotonic() >= self._due:
            self._send_clocks()

    def on_eval(self, row: Mapping[str, Any]) -> None:
        self._send_clocks()
        values = {f"eval/{name}": float(value) for name, value in row["metrics"].items()}
        self._send(values, row["updates"], row["samples"], row["time"], always=True)

    def on_end(self, status: str) -> None:
        self._send_clocks()
        sender, self._sender = self._sender, None
        if sender is None:
            return
        sender.put(functools.partial(self.shut, status), always=True)
        waiting, name = sender.close(self.patience), type(self).__name__
        if waiting:
            say(
                f"jax_ssp: {name} has not taken all after {self.patience:g} s: {waiting} points "
                "wait still, and are lost if the process ends before"
            )
        if sender.dropped:
            say(f"jax_ssp: {sender.dropped} points of the run did not get to {name}")

    def _send_clocks(self) -> None:
        if self._sums:
            means = {name: total / count for name, (total, count) in self._sums.items()}
            row = self._row
            self._send(means, row["updates"], row["samples_seen"], row["finish"])
            self._sums.clear()
        self._due = time.monotonic() + self.interval

    def _send(
        self,
        values: dict[str, float],
        updates: int,
        samples: int,
        seconds: float,
        always: bool = False,
    ) -> None:
        if self._sender is not None:
            values |= {"samples": float(samples), "seconds": float(seconds)}
            self._sender.put(functools.partial(self.log, values, updates), always=always)
