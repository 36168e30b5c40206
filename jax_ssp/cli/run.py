"""`jax-ssp run`: one experiment or a sweep, with a folder for each run."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.cli.exits import DONE, EXIT_CODES, INTERRUPTED
from jax_ssp.config_file import digest_of, parsed, usage_errors

if TYPE_CHECKING:
    from jax_ssp.experiment import Experiment
    from jax_ssp.training import Result


def run(file: Path, overrides: list[str]) -> int:
    with usage_errors():
        content = file.read_bytes() if file.is_file() else None
    experiments, options = parsed(file, overrides, content)
    if options.dry_run:
        return _dry_run(experiments[0])
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = experiments[0].name if len(experiments) == 1 else file.stem
    folder = options.workdir or Path("runs") / _folder(f"{name}-{stamp}")
    digest = digest_of(content or b"")
    source = {"file": str(file.resolve()), "sha256": digest, "overrides": overrides}
    if len(experiments) == 1:
        result, _ = run_one(experiments[0], folder, {**source, "index": 0})
        print(f"{result.summary()}\nrun folder: {folder}")
        return EXIT_CODES.get(result.status, DONE)
    return _sweep(experiments, folder, source)


def _sweep(experiments: list[Experiment], folder: Path, source: dict[str, Any]) -> int:
    from jax_ssp.report.sweep import compare
    from jax_ssp.report.tables import print_table

    runs: list[dict[str, Any]] = []
    code = DONE
    for index, experiment in enumerate(experiments):
        print(f"[{index + 1}/{len(experiments)}] {experiment.name}, seed {experiment.seed}")
        path = folder / _folder(f"{index:02d}-{experiment.name}-seed{experiment.seed}")
        result, summary = run_one(experiment, path, {**source, "index": index})
        if result.status == "interrupted":
            code = INTERRUPTED
            break
        about = {"name": experiment.name, "seed": experiment.seed}
        runs.append({**about, "summary": summary, "evaluations": result.evaluations})
    if runs:
        rows = compare(runs, folder)
        shown = [column for column in rows[0] if "max_" not in column and "range" not in column]
        print_table(rows, shown)
    print(f"run folder: {folder}")
    return code


def _folder(name: str) -> str:
    """One folder, though names such as "SGD, 1/tau" have a slash in them."""
    return re.sub(r"[/\\]", "_", name)


def run_one(
    experiment: Experiment, folder: Path, source: dict[str, Any]
) -> tuple[Result, dict[str, Any]]:
    from jax_ssp.report.environment import environment
    from jax_ssp.report.folder import RunFolder
    from jax_ssp.report.progress import Progress

    print(f"{experiment.name}: building and compiling", file=sys.stderr)
    with usage_errors():
        arguments = experiment.arguments()
        about = {"environment": environment(), "experiment": experiment.describe()}
        run_folder = RunFolder(folder, {**source, **about})
    result = trained(arguments, [run_folder, Progress()])
    return result, run_folder.finish(result)


def trained(arguments: dict[str, Any], observers: list[Any]) -> Result:
    """Train; what is wrong with the arguments is the user's mistake until the run has begun."""
    from jax_ssp.runtimes.base import Observer
    from jax_ssp.training import train

    class Begun(Observer):
        begun = False

        def on_start(self, info: Any) -> None:
            self.begun = True

    begun = Begun()
    with usage_errors(unless=lambda: begun.begun):
        return train(**arguments, observers=[*observers, begun])


def _dry_run(experiment: Experiment) -> int:
    from jax_ssp.report.tables import print_table
    from jax_ssp.runtimes.crew import rehearse

    with usage_errors():
        arguments = experiment.arguments()
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
            for row in rehearse(**arguments)
        ]
    print_table(rows, title=f"{experiment.name}: one clock on each device")
    return DONE
