"""A sweep: many runs, so many at once, each in a folder and a process of its own.

What comes of them is read from their folders, however they ended; so a sweep that was cut short
goes on where it was, in the same folder.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jax_ssp import checks
from jax_ssp.checkpoint.claim import Workdir
from jax_ssp.checkpoint.sweep_folder import OUTPUT, SweepFolder
from jax_ssp.failures import AGAIN, BUG, DONE, INTERRUPTED, in_a_word, note_traceback
from jax_ssp.files import say
from jax_ssp.report.sweep_view import SweepView
from jax_ssp.runtimes.interrupts import listening
from jax_ssp.training.experiment import Experiment
from jax_ssp.training.jobs import default_jobs
from jax_ssp.training.members import (
    Member,
    checked_experiments,
    fits_elsewhere,
    member_of,
)
from jax_ssp.training.processes import Ended, Job, Processes, Said, Started
from jax_ssp.training.swept import SweepResult, SweptRun, read, swept


def sweep(
    experiments: Sequence[Experiment],
    *,
    jobs: int | None = None,
    workdir: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> SweepResult:
    """Run experiments, so many at once, each in a process and a folder of its own.

    Runs of one name that differ in their seed are one curve. A run that fails, or is killed, is
    named in the result, and the others go on. Ctrl-C ends all of them whole. The numbers are those
    of runs one after the other. A script that calls this does so under
    `if __name__ == "__main__":`, since its processes import it.

    Args:
        experiments: what is to be run.
        jobs: runs at once; 1 runs them in this process, one after the other. By default as many as
            there are cores for what computes on the CPU in virtual time, else 1.
        workdir: the folder of the sweep; by default runs/sweep-<time>. If there are runs of this
            sweep in it, those that are over are read, and the others go on.
        progress: whether to show how far it is; by default on a terminal and in a notebook.

    Returns:
        What came of each, and the comparison of all, which is in the folder too.

    Raises:
        TypeError, ValueError: if an argument or an experiment is not right, or `workdir` holds
            other runs; naming it and the remedy, before anything is run.

    Example:
        >>> import tempfile, jax_ssp as ssp
        >>> clockwork = ssp.Virtual(num_workers=4, compute=False)
        >>> runs = [
        ...     ssp.Experiment(f"SSP({s})", policy=ssp.SSP(s), runtime=clockwork, num_clocks=5)
        ...     for s in (0, 3)
        ... ]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = sweep(runs, jobs=1, workdir=folder + "/sweep", progress=False)
        ...     [(run.name, run.status, run.run.summary["updates"]) for run in result.members]
        [('SSP(0)', 'done', 20), ('SSP(3)', 'done', 20)]
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "`sweep` was called by a script while a process of the sweep imported it; call it "
            'under `if __name__ == "__main__":`.'
        )
    checked = checked_experiments(experiments)
    jobs = checks.optional("sweep(jobs=...)", jobs, checks.integer, least=1)
    folder = checks.optional("sweep(workdir=...)", workdir, checks.path)
    progress = checks.optional("sweep(progress=...)", progress, checks.flag)
    if jobs is None:
        jobs = default_jobs(checked).number if all(map(fits_elsewhere, checked)) else 1
    jobs = min(jobs, len(checked))
    members = [member_of(each, jobs > 1, progress) for each in checked]
    default = Path("runs") / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}"
    workdir = Workdir(folder or default, unique=folder is None, called="`sweep(workdir=...)`")
    return carried_out(members, jobs, workdir, progress)


def carried_out(
    members: Sequence[Member],
    jobs: int,
    workdir: Workdir,
    progress: bool | None = None,
    claimed: Callable[[SweepFolder], object] = lambda _: None,
) -> SweepResult:
    """Run what is not over in the folder, and compare all.

    Args:
        members: the runs.
        jobs: how many at once; 1 runs them here.
        workdir: of the sweep.
        progress: whether to show how far it is; by default on a terminal and in a notebook.
        claimed: is told the folder once it is this process's.
    """
    folder = SweepFolder(workdir, [member.facts() for member in members])
    claimed(folder)
    try:
        runs = [
            None if there is None else read(member.experiment, there)
            for member, there in zip(members, folder.finished, strict=True)
        ]
        named = [(member.experiment.name, member.experiment.seed) for member in members]
        view = SweepView(named, progress, one_by_one=jobs == 1)
        for number, there in enumerate(runs):
            if there is not None:
                view.ended(number, f"{there.status}, read from {there.folder.name}")
        todo = [number for number, there in enumerate(runs) if there is None]
        paths = {number: folder.folder_of(number, *named[number]) for number in todo}
        carry = _one_after_the_other if jobs == 1 else functools.partial(_at_once, jobs)
        with view:
            for number, one in carry(members, paths, view).items():
                runs[number] = one
        return SweepResult.of(folder.path, [each for each in runs if each is not None])
    finally:
        folder.close()


def _one_after_the_other(
    members: Sequence[Member], folders: Mapping[int, Path], view: SweepView
) -> dict[int, SweptRun]:
    """Run members in this process."""
    runs: dict[int, SweptRun] = {}
    code: int | None = DONE
    with listening() as interrupts, interrupts.deferred(math.inf) as held:
        for number, folder in folders.items():
            error = ""
            if held.count or code in (INTERRUPTED, AGAIN, None):
                code = None  # this one, and those after it, are not run
            else:
                view.started(number)
                code, error = _tried(members[number].here, folder)
            runs[number] = swept(members[number].experiment, folder, code, error)
            view.ended(number, runs[number].said)
    return runs


def _tried(here: Callable[[Path], int], folder: Path) -> tuple[int, str]:
    """Run a member; gives its exit code, and what it failed by."""
    try:
        return here(folder), ""
    except KeyboardInterrupt:
        return INTERRUPTED, ""
    except (Exception, SystemExit) as error:
        say(f"error: {in_a_word(error)}\n  {note_traceback(error, folder / 'error.txt')}")
        return BUG, in_a_word(error)


def _at_once(
    jobs: int, members: Sequence[Member], folders: Mapping[int, Path], view: SweepView
) -> dict[int, SweptRun]:
    """Run members in processes of their own."""
    runs: dict[int, SweptRun] = {}
    numbers = list(folders)
    work = [
        Job(functools.partial(members[number].there, folder), folder / OUTPUT)
        for number, folder in folders.items()
    ]
    with (
        tempfile.TemporaryDirectory(prefix="jax-ssp-") as compiled,
        listening() as interrupts,
        interrupts.deferred(math.inf) as held,
    ):
        processes = Processes(work, jobs, _environment(compiled))
        held.when(
            lambda: processes.interrupt(signal.SIGTERM if interrupts.terminated else signal.SIGINT)
        )
        for news in processes:
            if isinstance(news, Started):
                view.started(numbers[news.job])
            elif isinstance(news, Said):
                view.said(numbers[news.job], news.text)
            elif isinstance(news, Ended):
                number = numbers[news.job]
                member, folder = members[number].experiment, folders[number]
                runs[number] = swept(member, folder, news.code)
                view.ended(number, runs[number].said)
            view.draw()
    return runs


def _environment(compiled: str) -> dict[str, str]:
    """What a process of a sweep is told where nobody has said otherwise.

    They share what is compiled, and an accelerator's memory. The threads of XLA are left as they
    are: their number decides how sums are split, and so the last bits of a run.
    """
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        environment["JAX_COMPILATION_CACHE_DIR"] = compiled
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    return environment
