"""`jax-ssp run` of more than one experiment: the runs of a sweep, and how it ends."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.checkpoint.claim import Workdir
from jax_ssp.cli import exits
from jax_ssp.cli.config_file import Chosen, chosen
from jax_ssp.cli.one import run_one
from jax_ssp.cli.usage import UsageError, usage_errors
from jax_ssp.failures import BUG, DONE, USAGE
from jax_ssp.files import say

if TYPE_CHECKING:
    from jax_ssp.checkpoint.sweep_folder import SweepFolder
    from jax_ssp.training.experiment import Experiment
    from jax_ssp.training.swept import SweepResult


def run_sweep(
    runs: Sequence[Chosen],
    sources: Sequence[dict[str, Any]],
    content: bytes,
    workdir: Workdir,
    jobs: int | None,
) -> int:
    """Run what is not over, compare all, and say how it went.

    Args:
        runs: what is to be run.
        sources: of each run what `config.json` says of where it comes from.
        content: of the config file.
        workdir: where it is kept.
        jobs: how many runs at once; None for as many as suit.
    """
    from jax_ssp.checks import integer, optional
    from jax_ssp.training.jobs import default_jobs
    from jax_ssp.training.sweep import Member, carried_out

    with usage_errors():
        jobs = optional("--jobs", jobs, integer, least=1)
    if jobs is None:
        jobs, why = default_jobs([each.experiment for each in runs])
        say(f"{len(runs)} runs, {why}; `--jobs` says how many")
    members = [
        Member(
            each.experiment,
            source,
            functools.partial(_here, each.experiment, source),
            functools.partial(_there, source, content),
        )
        for each, source in zip(runs, sources, strict=True)
    ]
    begun = False

    def claimed(folder: SweepFolder) -> None:
        nonlocal begun
        begun = True
        exits.early.undo.append(folder.close)
        exits.early.trained |= jobs > 1  # signals are passed on to the runs

    with usage_errors(unless=lambda: begun):
        result = carried_out(members, jobs, workdir, progress=True, claimed=claimed)
    exits.early.resumable = lambda: result.resumable
    _show(result)
    return _code_of(result)


def list_runs(runs: Sequence[Chosen]) -> None:
    """Print what a sweep would run."""
    from jax_ssp.report.tables import print_table

    rows = [
        {
            "run": number,
            "name": each.experiment.name,
            "seed": each.experiment.seed,
            "policy": str(each.experiment.policy),
            "overrides": " ".join(word for word in each.overrides if word[:7] != "--name="),
        }
        for number, each in enumerate(runs)
    ]
    print_table(rows, title=f"{len(runs)} runs")


def _here(experiment: Experiment, source: dict[str, Any], folder: Path) -> int:
    """Run a member in this process."""
    from jax_ssp.checkpoint.sweep_folder import OUTPUT

    try:
        return run_one(experiment, Workdir(folder), source).code
    except UsageError as error:
        say(f"error: {error}")
        (folder / OUTPUT).write_text(f"error: {error}\n")
        return USAGE


def _there(
    source: dict[str, Any], content: bytes, folder: Path, tell: Callable[[str], None]
) -> int:
    """Run a member in a process of its own, and end that with its exit code."""

    def command() -> int:
        from jax_ssp.report.sweep_view import told_progress

        words, index = source["overrides"], source["index"]
        (each,), _ = chosen(Path(source["file"]), words, content, only=index)
        done = run_one(each.experiment, Workdir(folder), source, progress=told_progress(tell))
        print(done.result.summary())
        return done.code

    exits.ended(command, own_process=True)


def _show(result: SweepResult) -> None:
    from jax_ssp.report.labels import shortened
    from jax_ssp.report.tables import print_table

    short = shortened([row["name"] for row in result.rows])
    rows = [{**row, "name": short[row["name"]]} for row in result.rows]
    if rows:
        columns = dict.fromkeys(name for row in rows for name in row)
        hidden = ("max_", "range", "log")
        print_table(rows, [name for name in columns if not any(each in name for each in hidden)])
    for each in result.failed:
        print(f"{each.name}, seed {each.seed}: {each.said}", file=sys.stderr)
    print(f"run folder: {result.folder}")
    if result.interrupted:
        say(f"interrupted; the same command with `--workdir {result.folder}` goes on with it")


def _code_of(result: SweepResult) -> int:
    if result.interrupted:
        return exits.early.interrupted
    if any(each.status != "refused" for each in result.failed):
        return BUG
    return USAGE if result.failed else DONE
