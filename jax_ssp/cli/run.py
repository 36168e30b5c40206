"""`jax-ssp run`: one experiment or a sweep, with a folder for each run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.checkpoint.claim import Workdir, resumable
from jax_ssp.cli import exits
from jax_ssp.cli.config_file import chosen
from jax_ssp.cli.one import run_one
from jax_ssp.cli.sweep import list_runs, run_sweep
from jax_ssp.cli.usage import UsageError, usage_errors
from jax_ssp.failures import DONE
from jax_ssp.files import digest_of, say

if TYPE_CHECKING:
    from jax_ssp.training.experiment import Experiment


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
    from jax_ssp.checkpoint.sweep_folder import folder_name

    named = _workdir(overrides)
    if named is not None:  # a signal may come while the config is read
        exits.early.resumable = lambda: resumable(named)
    with usage_errors():
        content = file.read_bytes() if file.is_file() else b""
    runs, options = chosen(file, overrides, content)
    if options.dry_run:
        if len(runs) > 1:
            list_runs(runs)
        return _dry_run(runs[0].experiment)
    name = runs[0].experiment.name if len(runs) == 1 else file.stem
    stamp = time.strftime("%Y%m%d-%H%M%S")
    place = options.workdir or (None if len(runs) > 1 else _named(runs[0].experiment))
    folder = place or Path("runs") / folder_name(name, f"-{stamp}")
    unique = place is None  # two runs of one second have a folder each
    about = {"file": str(file.resolve()), "sha256": digest_of(content)}
    sources = [{**about, "overrides": each.overrides, "index": each.index} for each in runs]
    if unique and options.resume == "must":
        raise UsageError("--resume must goes on with the run in a folder: name it by --workdir")
    in_config = place is not None and options.workdir is None
    called = "`--checkpoint.folder`, or a `--workdir`" if in_config else "`--workdir`"
    workdir = Workdir(folder, unique, options.resume, called)
    if len(runs) > 1:
        return run_sweep(runs, sources, content, workdir, options.jobs)
    done = run_one(runs[0].experiment, workdir, sources[0])
    print(f"{done.result.summary()}\nrun folder: {done.folder}")
    if done.result.status == "interrupted":
        say(f"interrupted; the same command with `--workdir {done.folder}` goes on with it")
    return done.code


def _workdir(overrides: list[str]) -> Path | None:
    """The folder that is named among the options, before these are read.

    Example:
        >>> _workdir(["--seed", "1", "--workdir=runs/a"]), _workdir(["--seed", "1"])
        (PosixPath('runs/a'), None)
    """
    for number, word in enumerate(overrides):
        option, _, value = word.partition("=")
        if option == "--workdir":
            value = value or "".join(overrides[number + 1 : number + 2])
            return Path(value) if value else None
    return None


def _named(experiment: Experiment) -> Path | None:
    """The folder that an experiment names for its checkpoints."""
    checkpoint = experiment.checkpoint
    return None if checkpoint is None or checkpoint.folder is None else Path(checkpoint.folder)


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
