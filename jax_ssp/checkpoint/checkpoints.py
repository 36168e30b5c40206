"""When a run saves its whole state, where, and which of the saves it keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jax_ssp import checks
from jax_ssp.runtimes.metric import Mode, check_mode, mode_of

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(rf"([0-9]+(?:\.[0-9]+)?) ?({'|'.join(_UNITS)})")
_MOST_SECONDS = 10 * 365 * 24 * 3600.0
_DURATIONS = '"90s", "5min" or "2h"'


@dataclass(frozen=True)
class Checkpoints:
    """Has a run save its whole state while it goes on, so that it can be resumed.

    A checkpoint is everything at one place of the tape: parameters, optimizers, what is on its way,
    where each worker stands in its data. It lies in `checkpoints/<rows>` of the run's folder, where
    `rows` is that place. What fails to be saved is said, and tried again; it never ends the run.

    Args:
        folder: the run's folder; by default the one that the run has anyway, such as that of
            `jax-ssp run --workdir`.
        every: how often: a time such as "90s", "5min" or "2h" of the wall clock, or an integer, a
            number of clocks: so many deltas of each worker, in the mean.
        keep: how many of the last ones to keep, at least 1.
        best: a metric of `evaluate`; the best checkpoints by it are kept too. What counts for a
            checkpoint is the evaluation of its version, or of the nearest one before it. An
            evaluation counts for one checkpoint: that of its version, or the first one after it.
            So evaluate as often as you save, or more often.
        mode: "max" or "min", what is better; by default "min" where the metric's name has "loss",
            "error", "perplexity" or "nll" in it, else "max".
        keep_best: how many of the best to keep, if there is a metric.
        grace: a time, of which a run that is told to end (SIGTERM) may take so much to save.

    Raises:
        TypeError, ValueError: if one of them cannot be that.

    Example:
        >>> checkpoints = Checkpoints("runs/mine", every="5min", keep=2, best="test_loss")
        >>> checkpoints.every_seconds, checkpoints.every_clocks, checkpoints.better
        (300.0, None, 'min')
        >>> Checkpoints(every=100).every_clocks
        100
        >>> Checkpoints(every="5 parsecs")
        Traceback (most recent call last):
        ValueError: `Checkpoints(every=...)` must be a number of clocks, or a time such as "90s", \
"5min" or "2h", got '5 parsecs'.
    """

    folder: str | Path | None = None
    """The run's folder; by default the one that the run has anyway."""
    every: str | int = "60s"
    """How often to save: a time such as 90s, 5min or 2h, or a number of clocks."""
    keep: int = 3
    """How many of the last ones to keep."""
    best: str | None = None
    """A metric of `evaluate`: keep the best by it too."""
    mode: Mode = None
    """What is better, max or min; by default as the metric's name says."""
    keep_best: int = 1
    """How many of the best to keep."""
    grace: str = "30s"
    """How long a run that is told to end may take to save."""

    def __post_init__(self) -> None:
        checks.put(self, "folder", _folder)
        checks.put(self, "every", _period)
        checks.put(self, "keep", checks.integer, least=1)
        checks.put(self, "best", lambda field, value: checks.optional(field, value, checks.text))
        checks.put(self, "mode", check_mode)
        checks.put(self, "keep_best", checks.integer, least=1)
        checks.put(self, "grace", _time)

    @property
    def every_seconds(self) -> float | None:
        """The seconds of wall time between two; None if clocks are counted."""
        return None if isinstance(self.every, int) else _seconds(self.every)

    @property
    def every_clocks(self) -> int | None:
        """The clocks between two; None if it goes by time."""
        return self.every if isinstance(self.every, int) else None

    @property
    def grace_seconds(self) -> float:
        """The seconds that a run which is told to end may take to save."""
        return _seconds(self.grace)

    @property
    def better(self) -> Literal["max", "min"]:
        """What is better of `best`."""
        return mode_of(self.best or "", self.mode)


def _folder(field: str, value: Any) -> str | None:
    """As a string, which can be shown and compared as it was written."""
    return checks.optional(field, value, lambda name, path: str(checks.path(name, path)))


def _period(field: str, value: Any) -> str | int:
    """A number of clocks, or a time; a command line gives both as words."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if not isinstance(value, str):
        return checks.integer(field, value, least=1, must=f"a number of clocks, or {_a_time()}")
    return _time(field, value, f"a number of clocks, or {_a_time()}")


def _a_time() -> str:
    return f"a time such as {_DURATIONS}"


def _time(field: str, value: Any, must: str = _a_time()) -> str:
    if not isinstance(value, str):
        raise TypeError(f"`{field}` must be {must}, got {checks.shown(value)}.")
    if not _DURATION.fullmatch(value):
        raise ValueError(f"`{field}` must be {must}, got {checks.shown(value)}.")
    if not 0 < _seconds(value) <= _MOST_SECONDS:
        raise ValueError(
            f"`{field}` must be above 0 seconds and at most ten years, got {checks.shown(value)}."
        )
    return str(value)


def _seconds(time: str) -> float:
    match = _DURATION.fullmatch(time)
    assert match is not None, "checked when it was made"
    return float(match[1]) * _UNITS[match[2]]
