"""The runs of a sweep before they are run: in this process, or in one of their own."""

from __future__ import annotations

import functools
import math
import pickle
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax_ssp import checks
from jax_ssp.checkpoint.claim import resumable
from jax_ssp.checkpoint.run_folder import RunFolder
from jax_ssp.failures import AGAIN, BUG, DONE, INTERRUPTED
from jax_ssp.report.default import with_progress
from jax_ssp.report.sweep_view import told_progress
from jax_ssp.runtimes.interrupts import Interrupts, listening
from jax_ssp.training.experiment import Experiment
from jax_ssp.training.in_folder import known_of, saved
from jax_ssp.training.own_parts import own_parts
from jax_ssp.training.run import run


class Member(NamedTuple):
    """A run of a sweep, before it is run.

    Attributes:
        experiment: what is run.
        source: what is to be said of it in `config.json`, besides the experiment.
        here: (folder) -> exit code; runs it in this process.
        there: (folder, tell) -> exit code; runs it in another one, so it can be pickled.
    """

    experiment: Experiment
    source: Mapping[str, Any]
    here: Callable[[Path], int]
    there: Callable[[Path, Callable[[str], None]], int]

    def facts(self) -> dict[str, Any]:
        """What tells a run of it from a run of another experiment."""
        return {
            "experiment": self.experiment.describe(),
            "sha256": self.source.get("sha256"),
            "parts": own_parts(self.experiment),
        }


def member_of(experiment: Experiment, elsewhere: bool, progress: bool | None) -> Member:
    """An experiment as a run of a sweep.

    Args:
        experiment: what is run.
        elsewhere: whether it may be run in another process.
        progress: whether it shows itself where it runs in this one; see `train`.

    Raises:
        ValueError: if it cannot go there.
    """
    payload = _pickled(experiment) if elsewhere else b""
    here = functools.partial(_here, experiment, progress)
    return Member(experiment, {}, here, functools.partial(_there, payload))


def checked_experiments(experiments: Any) -> list[Experiment]:
    """The experiments of a sweep; TypeError or ValueError if they cannot be that."""
    must = "a list of `ssp.Experiment`s"
    checks.instance("sweep(experiments=...)", experiments, list | tuple, must)
    if not experiments:
        raise ValueError(
            f"`sweep(experiments=...)` must have at least one experiment, got {experiments!r}."
        )
    checked: list[Experiment] = []
    for number, each in enumerate(experiments):
        name = f"sweep(experiments=...)[{number}]"
        checks.instance(name, each, Experiment, "an `ssp.Experiment`")
        try:
            each.checked()
        except (TypeError, ValueError) as error:
            raise type(error)(f"`{name}`, {each.name!r}: {error}") from error
        checked.append(each)
    return checked


def fits_elsewhere(experiment: Experiment) -> bool:
    """Whether another process could have it."""
    try:
        _pickled(experiment)
    except ValueError:
        return False
    return True


def _pickled(experiment: Experiment) -> bytes:
    """An experiment for another process."""
    remedy = "define its parts in a file that can be imported, or `jobs=1`"
    try:
        payload = pickle.dumps(experiment)
    except Exception as error:
        raise ValueError(
            f"experiment {experiment.name!r} cannot go to another process: {error}; {remedy}."
        ) from error
    if b"__main__" in payload and not hasattr(sys.modules["__main__"], "__file__"):
        raise ValueError(
            f"experiment {experiment.name!r} has a part that was defined at a prompt, where other "
            f"processes do not find it: {remedy}."
        )
    return payload


def _here(experiment: Experiment, progress: bool | None, folder: Path) -> int:
    return _run(experiment, folder, with_progress([], progress, experiment.runtime))


def _there(payload: bytes, folder: Path, tell: Callable[[str], None]) -> int:
    return _run(pickle.loads(payload), folder, [told_progress(tell)])


def _run(experiment: Experiment, path: Path, observers: Sequence[Any]) -> int:
    """Run an experiment in its folder; gives the exit code."""
    about: dict[str, Any] = {}
    with (
        listening(signal.SIGINT, signal.SIGTERM) as interrupts,
        RunFolder(path, about, called="folder for the sweep") as folder,
        interrupts.deferred(math.inf) as held,
    ):
        plan, task = experiment.ready()
        about |= known_of(experiment)
        if held.count:
            return _interrupted(interrupts, path)
        result, _ = saved(folder, lambda: run(plan, task, [folder, *observers]))
    if result.status == "interrupted":
        return _interrupted(interrupts, path)
    return BUG if folder.problems else DONE


def _interrupted(interrupts: Interrupts, folder: Path) -> int:
    """The exit code of a run that a signal has ended."""
    return AGAIN if interrupts.terminated and resumable(folder) else INTERRUPTED
