"""Whether a run that nobody says anything of shows its progress."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence

from jax_ssp import checks
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.rules import observers as check_observers
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.surroundings import is_watched


def with_progress(
    observers: Sequence[Observer], progress: bool | None, runtime: Runtime
) -> Sequence[Observer]:
    """The observers of a run, and a `Progress` behind them if it is to be shown.

    Args:
        observers: those that the user gives.
        progress: True shows it, False does not. None shows it to a person: in a notebook, or where
            standard error is a terminal; but neither of runs in other threads or processes than
            the main ones, of which there may be many at once, nor of those that compute nothing,
            which are soon over, and later with it. A `Progress` among the observers is enough.
        runtime: of the run; whether it is one, the plan says.
    """
    progress = checks.optional("progress", progress, checks.flag)
    observers = check_observers("observers", observers)
    if progress is None:
        progress = _somebody_looks() and getattr(runtime, "computes", False)
    if not progress:
        return observers
    from jax_ssp.report.progress import Progress  # rich only when it draws

    if any(isinstance(each, Progress) for each in observers):
        return observers
    return (*observers, Progress())


def _somebody_looks() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    if multiprocessing.parent_process() is not None:
        return False
    return is_watched()
