"""`jax-ssp run`: one experiment or a sweep, with a folder for each run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.cli.config_file import chosen
from jax_ssp.cli.one import run_one
from jax_ssp.cli.sweep import list_runs, run_sweep
from jax_ssp.cli.usage import usage_errors
from jax_ssp.failures import DONE
from jax_ssp.files import digest_of

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

    with usage_errors():
        content = file.read_bytes() if file.is_file() else b""
    runs, options = chosen(file, overrides, content)
    if options.dry_run:
        if len(runs) > 1:
            list_runs(runs)
        return _dry_run(runs[0].experiment)
    name = runs[0].experiment.name if len(runs) == 1 else file.stem
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = options.workdir or Path("runs") / folder_name(name, f"-{stamp}")
    unique = options.workdir is None  # two runs of one second have a folder each
    about = {"file": str(file.resolve()), "sha256": digest_of(content)}
    sources = [{**about, "overrides": each.overrides, "index": each.index} for each in runs]
    if len(runs) > 1:
        return run_sweep(runs, sources, content, folder, unique, options.jobs)
    done = run_one(runs[0].experiment, folder, sources[0], unique)
    print(f"{done.result.summary()}\nrun folder: {done.folder}")
    return done.code


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
