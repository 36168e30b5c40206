"""One run of the command line, in its folder: what it is told, and what its signals do."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_ssp.checkpoint.claim import Resume, Workdir, resumable
from jax_ssp.cli import exits
from jax_ssp.cli.exits import EXIT_CODES
from jax_ssp.cli.usage import usage_errors
from jax_ssp.failures import AGAIN, BUG, DONE
from jax_ssp.files import say
from jax_ssp.runtimes.cut import SpoiledCheckpoint
from jax_ssp.runtimes.interrupts import Interrupts, listening
from jax_ssp.runtimes.observer import Observer

if TYPE_CHECKING:
    from jax_ssp.report.progress import Progress
    from jax_ssp.runtimes.plan import Plan
    from jax_ssp.runtimes.task import Task
    from jax_ssp.training.experiment import Experiment
    from jax_ssp.training.result import Result


class Done(NamedTuple):
    """A run that is over and saved."""

    result: Result
    summary: dict[str, Any]
    folder: Path
    code: int


def run_one(
    experiment: Experiment,
    workdir: Workdir,
    source: dict[str, Any],
    progress: Progress | None = None,
) -> Done:
    """Run an experiment in a folder of its own, and save what came of it, however it ends.

    Should the checkpoint be bad that it goes on from, it goes on from the one before.

    Args:
        experiment: what is run.
        workdir: where it is kept.
        source: what `config.json` says of where the experiment comes from.
        progress: shows the run; by default one of its own.
    """
    try:
        return _run_once(experiment, workdir, source, progress)
    except SpoiledCheckpoint as error:
        if error.exit_code != AGAIN:
            raise
        say(f"{error} The checkpoint is set aside; going on from the one before.")
    return _run_once(experiment, workdir, source, progress)


def _run_once(
    experiment: Experiment, workdir: Workdir, source: dict[str, Any], progress: Progress | None
) -> Done:
    """Run it from the newest checkpoint that is not set aside."""
    from jax_ssp.checkpoint.agreement import settings_of
    from jax_ssp.checkpoint.run_folder import RunFolder
    from jax_ssp.report.progress import Progress
    from jax_ssp.training.in_folder import known_of, saved

    given = experiment
    if experiment.checkpoint is not None:  # in this folder
        wanted = replace(experiment.checkpoint, folder=None)
        experiment = replace(experiment, checkpoint=wanted)
    about = dict(source)  # what is known of the run by its start is written then
    with usage_errors():
        run_folder = RunFolder(workdir.folder, about, unique=workdir.unique, called=workdir.called)
    exits.early.undo.append(run_folder.close)
    exits.early.resumable = lambda: resumable(run_folder.path)
    with listening() as interrupts, run_folder, interrupts.deferred(math.inf) as held:
        signals = _Signals(interrupts)
        held.when(signals.came)
        with usage_errors():
            past = run_folder.prepare(settings_of(experiment.planned()), workdir.resume)
        goes_on = "" if past is None else f"going on after {len(past.tape)} rows of the tape, "
        print(f"{experiment.name}: {goes_on}building and compiling", file=sys.stderr)
        with usage_errors():
            plan, task = experiment.ready()
            about |= known_of(given)
        interrupts.check()  # if one was swallowed
        result, summary = saved(
            run_folder,
            lambda: trained(
                plan, task, [run_folder, progress or Progress(), signals], workdir.resume
            ),
        )
    interrupted = result.status == "interrupted"
    code = exits.early.interrupted if interrupted else EXIT_CODES.get(result.status, DONE)
    if run_folder.problems and code == DONE:
        code = BUG
    return Done(result, summary, run_folder.saved_in, code)


class _Signals(Observer):
    """What becomes of signals that `train` does not take: before it, and while its run is saved.

    Before the run nothing is lost by ending at once. While it is saved signals wait, but a user who
    insists gets out of that too: by the third signal, if it is the second since saving began.
    """

    stays = True

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._since = 0
        self._began = False

    def on_start(self, info: Mapping[str, Any]) -> None:
        self._began = exits.early.trained = True

    def came(self) -> None:
        """A signal came; in its handler."""
        if not self._began:
            exits.early.came()
        self._since += 1
        if self._since >= 2 and self._interrupts.count >= 3:
            raise KeyboardInterrupt
        say("saving what the run has come to (interrupt again to give that up)")


def trained(plan: Plan, task: Task, observers: list[Any], resume: Resume = "auto") -> Result:
    """Train; what is wrong with what is given is the user's mistake until the run has begun."""
    from jax_ssp.training.run import run

    class Begun(Observer):
        stays = True
        begun = False

        def on_start(self, info: Any) -> None:
            # All are told, also after one that failed, such as a folder without room.
            self.begun = all(getattr(each, "began", True) for each in observers)

    begun = Begun()
    with usage_errors(unless=lambda: begun.begun):
        return run(plan, task, [*observers, begun], resume)
