"""`jax-ssp run`: one experiment or a sweep, with a folder for each run."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_ssp.checkpoint.claim import PICTURE
from jax_ssp.cli import exits
from jax_ssp.cli.config_file import parsed
from jax_ssp.cli.exits import BUG, DONE, EXIT_CODES, INTERRUPTED, in_a_word, note_traceback
from jax_ssp.cli.usage import usage_errors
from jax_ssp.failures import note
from jax_ssp.files import digest_of, say
from jax_ssp.runtimes.interrupts import Interrupts, listening
from jax_ssp.runtimes.observer import Observer

if TYPE_CHECKING:
    from jax_ssp.checkpoint.run_folder import RunFolder
    from jax_ssp.runtimes.plan import Plan, Task
    from jax_ssp.training.experiment import Experiment
    from jax_ssp.training.result import Result


def declare(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run a config file; `jax-ssp run FILE --help` shows every field",
        usage="jax-ssp run FILE [--workdir DIR] [--dry-run] [--FIELD VALUE ...]",
    )
    about = "a config file; `run FILE --help` shows its fields"
    parser.add_argument("file", type=Path, help=about)
    parser.set_defaults(command=lambda options, rest: run(options.file, rest))


def run(file: Path, overrides: list[str]) -> int:
    with usage_errors():
        content = file.read_bytes() if file.is_file() else None
    experiments, options = parsed(file, overrides, content)
    if options.dry_run:
        return _dry_run(experiments[0])
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = experiments[0].name if len(experiments) == 1 else file.stem
    folder = options.workdir or Path("runs") / _folder(name, f"-{stamp}")
    unique = options.workdir is None  # two runs of one second have a folder each
    digest = digest_of(content or b"")
    source = {"file": str(file.resolve()), "sha256": digest, "overrides": overrides}
    if len(experiments) > 1:
        return _sweep(experiments, folder, source, unique)
    done = run_one(experiments[0], folder, {**source, "index": 0}, unique)
    print(f"{done.result.summary()}\nrun folder: {done.folder}")
    return done.code


def _sweep(
    experiments: list[Experiment], folder: Path, source: dict[str, Any], unique: bool
) -> int:
    from jax_ssp.checkpoint.claim import Claim

    with usage_errors():
        claim = Claim(folder, unique)
    exits.early.undo.append(claim.close)
    runs: list[dict[str, Any]] = []
    code = DONE
    with closing(claim):
        try:
            for index, experiment in enumerate(experiments):
                print(f"[{index + 1}/{len(experiments)}] {experiment.name}, seed {experiment.seed}")
                name = _folder(f"{index:02d}-{experiment.name}", f"-seed{experiment.seed}")
                done = run_one(experiment, claim.path / name, {**source, "index": index})
                if done.code == INTERRUPTED:
                    code = INTERRUPTED
                    break
                code = done.code if done.code == BUG else code  # not all of it could be saved
                evaluations = done.result.evaluations
                about = {"name": experiment.name, "seed": experiment.seed}
                runs.append({**about, "summary": done.summary, "evaluations": evaluations})
        finally:
            if runs:  # also those before one that failed
                _compare(runs, claim.path)
    print(f"run folder: {claim.path}")
    return code


def _compare(runs: list[dict[str, Any]], folder: Path) -> None:
    from jax_ssp.report.sweep import compare
    from jax_ssp.report.tables import print_table

    rows = compare(runs, folder)
    shown = [column for column in rows[0] if "max_" not in column and "range" not in column]
    print_table(rows, shown)


def _folder(name: str, end: str) -> str:
    """One folder, though names such as "SGD, 1/tau" have a slash in them, or have no end."""
    name = re.sub(r"[/\\\x00-\x1f\x7f]", "_", name)
    return name.encode(errors="replace")[:150].decode(errors="ignore") + end


class Done(NamedTuple):
    """A run that is over and saved."""

    result: Result
    summary: dict[str, Any]
    folder: Path
    code: int


def run_one(
    experiment: Experiment, folder: Path, source: dict[str, Any], unique: bool = False
) -> Done:
    """Run an experiment in a folder of its own, and save what came of it, however it ends."""
    from jax_ssp.checkpoint.run_folder import RunFolder
    from jax_ssp.report.environment import environment
    from jax_ssp.report.progress import Progress
    from jax_ssp.training.own_parts import own_parts

    about = dict(source)  # what is known of the run by its start is written then
    with usage_errors():
        run_folder = RunFolder(folder, about, unique=unique)
    exits.early.undo.append(run_folder.close)
    with listening() as interrupts, run_folder, interrupts.deferred(math.inf) as held:
        signals = _Signals(interrupts)
        held.when(signals.came)
        print(f"{experiment.name}: building and compiling", file=sys.stderr)
        with usage_errors():
            plan, task = experiment.ready()
            about |= {"environment": environment(), "experiment": experiment.describe()}
            about["parts"] = own_parts(experiment)
        interrupts.check()  # if one was swallowed
        try:
            result = trained(plan, task, [run_folder, Progress(), signals])
        except BaseException as error:
            _save_what_there_is(error, run_folder)
            raise
        summary = _saved(run_folder, result)
    code = EXIT_CODES.get(result.status, DONE)
    if run_folder.problems and code == DONE:
        code = BUG
    return Done(result, summary, run_folder.saved_in, code)


def _save_what_there_is(error: BaseException, folder: RunFolder) -> None:
    """Save what an error that ended a run leaves of it."""
    result: Result | None = getattr(error, "result", None)
    if not folder.began:
        return
    if result is not None:
        summary = _saved(folder, result, in_a_word(error))
        say(f"{result.updates} updates up to the {summary['status']} end are in {folder.saved_in}")
    if not isinstance(error, KeyboardInterrupt):
        note(error, note_traceback(error, folder.saved_in / "error.txt"))


def _saved(folder: RunFolder, result: Result, error: str | None = None) -> dict[str, Any]:
    """Save all of a run, and draw it; gives the summary."""
    summary = folder.finish(result, error)
    with suppress(Exception):  # the picture can be drawn again
        if len(result.schedule):
            result.draw(folder.saved_in / PICTURE)
    return summary


class _Signals(Observer):
    """What becomes of signals that `train` does not take: before it, and while its run is saved.

    Before the run nothing is lost by ending at once. While it is saved signals wait, but a user who
    insists gets out of that too: by the third signal, if it is the second since saving began.
    """

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


def trained(plan: Plan, task: Task, observers: list[Any]) -> Result:
    """Train; what is wrong with what is given is the user's mistake until the run has begun."""
    from jax_ssp.training.run import run

    class Begun(Observer):
        begun = False

        def on_start(self, info: Any) -> None:
            # All are told, also after one that failed, such as a folder without room.
            self.begun = all(getattr(each, "began", True) for each in observers)

    begun = Begun()
    with usage_errors(unless=lambda: begun.begun):
        return run(plan, task, [*observers, begun])


def _dry_run(experiment: Experiment) -> int:
    from jax_ssp.report.tables import print_table
    from jax_ssp.runtimes.session import rehearse

    with usage_errors():
        rows = [
            {
                "device": row["device"],
                "workers": row["workers"],
                "compile s": row["compile_seconds"],
                "clock ms": 1e3 * row["clock_seconds"],
                "params MB": row["parameter_bytes"] / 1e6,
                "inputs MB": row["argument_bytes"] / 1e6,
                "outputs MB": row["output_bytes"] / 1e6,
                "scratch MB": row["temporary_bytes"] / 1e6,
            }
            for row in rehearse(*experiment.ready())
        ]
    print_table(rows, title=f"{experiment.name}: one clock on each device")
    return DONE
