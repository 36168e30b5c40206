"""The command line: `jax-ssp run | replay | verify | reproduce | devices`.

Exit codes: 0 done, 1 a bug or a proof that failed, 2 usage or config, 3 diverged, 130 interrupted,
141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.config_file import UsageError, imported, parsed, usage_errors

if TYPE_CHECKING:
    from jax_ssp.experiment import Experiment
    from jax_ssp.training import Result

DONE, BUG, USAGE, DIVERGED, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141
_EXIT_CODES = {"diverged": DIVERGED, "interrupted": INTERRUPTED}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with one of the exit codes."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    own_process, abrupt = argv is None, False
    if own_process:
        _keep_compiled()
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # as in `jax-ssp verify RUN | head`
        if not own_process:
            raise
        code, abrupt = UNREAD, True
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code, abrupt = INTERRUPTED, True
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        code = USAGE
    except Exception:
        if not own_process:
            raise
        traceback.print_exc()
        code, abrupt = BUG, True
    if own_process and abrupt:
        # Threads may be compiling still; the interpreter's way out would crash in them, and the
        # exit code be lost. Whatever is to be written has been.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _as_interrupt(number: int, frame: Any) -> None:
    """What an interrupt does, even where those are ignored, as in the background of a script."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def _keep_compiled() -> None:
    """Have JAX, which is not imported yet, keep what it compiles from run to run."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "jax_ssp" / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _dispatch(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="jax-ssp", description=_ABOUT)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run a config file; `jax-ssp run FILE --help` shows every field",
        usage="jax-ssp run FILE [--workdir DIR] [--dry-run] [--FIELD VALUE ...]",
    )
    run.add_argument("file", type=Path, help="a config file; `run FILE --help` shows its fields")
    replay = commands.add_parser("replay", help="repeat a run and compare it to the last bit")
    replay.add_argument("run", type=Path, help="a run's folder")
    replay.add_argument("--file", type=Path, help="its config file, if it has moved")
    verify = commands.add_parser("verify", help="prove from its tape that a run kept the contract")
    verify.add_argument("run", type=Path, help="a run's folder, or a tape")
    paper = commands.add_parser("reproduce", help="measure a paper's claims; --list shows which")
    paper.add_argument("names", nargs="*", metavar="NAME", help="which; `all` for all of them")
    paper.add_argument("--list", action="store_true", help="list the papers")
    sizes = "smoke only shows that it runs, laptop takes minutes, paper is as large as the paper's"
    paper.add_argument(
        "--size", choices=("smoke", "laptop", "paper"), default="laptop", help=f"{sizes} (laptop)"
    )
    paper.add_argument("--seeds", type=int, default=3, help="of each random run (3)")
    paper.add_argument("--redraw", action="store_true", help="figure and text from the JSON alone")
    paper.add_argument("--papers", type=Path, default=Path("experiments/papers"), metavar="DIR")
    folders = "experiments/results/papers; what smoke measures goes to runs/papers"
    paper.add_argument("--folder", type=Path, metavar="DIR", help=folders)
    commands.add_parser("devices", help="list the devices JAX sees")
    # What follows `run FILE` belongs to the config.
    own, rest = (argv[:2], argv[2:]) if argv[:1] == ["run"] else (argv, [])
    options = parser.parse_args(own)
    match options.command:
        case "run":
            return _run(options.file, rest)
        case "replay":
            return _replay(options.run, options.file)
        case "verify":
            return _verify(options.run)
        case "reproduce":
            return _reproduce(options)
        case _:
            return _devices()


_ABOUT = "Stale-synchronous parallel training for JAX."


def _run(file: Path, overrides: list[str]) -> int:
    experiments, options = parsed(file, overrides)
    if options.dry_run:
        return _dry_run(experiments[0])
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = experiments[0].name if len(experiments) == 1 else file.stem
    folder = options.workdir or Path("runs") / _folder(f"{name}-{stamp}")
    source = {"file": str(file.resolve()), "overrides": overrides}
    if len(experiments) == 1:
        result, _ = _run_one(experiments[0], folder, {**source, "index": 0})
        print(f"{result.summary()}\nrun folder: {folder}")
        return _EXIT_CODES.get(result.status, DONE)
    return _sweep(experiments, folder, source)


def _sweep(experiments: list[Experiment], folder: Path, source: dict[str, Any]) -> int:
    from jax_ssp.report.sweep import compare
    from jax_ssp.report.tables import print_table

    runs: list[dict[str, Any]] = []
    code = DONE
    for index, experiment in enumerate(experiments):
        print(f"[{index + 1}/{len(experiments)}] {experiment.name}, seed {experiment.seed}")
        path = folder / _folder(f"{index:02d}-{experiment.name}-seed{experiment.seed}")
        result, summary = _run_one(experiment, path, {**source, "index": index})
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


def _run_one(
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
    result = _trained(arguments, [run_folder, Progress()])
    return result, run_folder.finish(result)


def _replay(run: Path, file: Path | None) -> int:
    import jax
    import numpy as np

    from jax_ssp.checkpoint import load_params
    from jax_ssp.controller import ProtocolError
    from jax_ssp.report.environment import environment
    from jax_ssp.report.progress import Progress
    from jax_ssp.runtimes.replay import Replay, TapeMismatch
    from jax_ssp.tape import read_tape

    with usage_errors():
        tape = read_tape(_tape_in(run))
        config = json.loads(_config_in(run).read_text())
    experiments, _ = parsed(file or Path(config["file"]), config["overrides"])
    experiment = experiments[config["index"]]
    _same_experiment(config["experiment"], experiment.describe())
    with usage_errors():
        experiment.runtime.count()  # splits the CPU as the run did, before JAX starts
        arguments = experiment.arguments(Replay(tape))
    try:
        result = _trained(arguments, [Progress()])
    except (TapeMismatch, ProtocolError) as error:
        print(f"the run does NOT repeat: {error}")
        return BUG
    print(f"{len(tape)} events repeated, every answer of the controller the same")
    if result.params is None:
        return DONE
    if not tape.complete:
        print("the tape breaks off before the end of its run, so there is nothing to compare")
        return DONE
    with usage_errors():
        saved = load_params(run, like=result.params)
    named = jax.tree_util.tree_leaves_with_path(result.params)
    differing = [
        jax.tree_util.keystr(path)
        for (path, here), there in zip(named, jax.tree.leaves(saved), strict=True)
        if np.asarray(here).tobytes() != np.asarray(there).tobytes()
    ]
    if differing:
        print(f"parameters DIFFER in {len(differing)} of {len(named)} leaves: {differing[:8]}")
        here, there = environment(), config.get("environment", {})
        for name in [name for name in there if here.get(name) != there[name]]:
            print(f"  {name}: recorded with {there[name]}, here {here.get(name)}")
        return BUG
    print(f"parameters the same to the last bit ({len(named)} leaves)")
    return DONE


def _verify(run: Path) -> int:
    from jax_ssp.controller import ContractViolation, check_contract
    from jax_ssp.tape import read_tape

    with usage_errors():
        tape = read_tape(run if run.is_file() else _tape_in(run))
    try:
        print(check_contract(tape))
    except ContractViolation as violation:
        print(violation)
        return BUG
    return DONE


def _reproduce(options: argparse.Namespace) -> int:
    from jax_ssp.report.papers import agreement, checked, gallery, redraw, reproduce
    from jax_ssp.report.tables import print_table

    papers = _papers(options.papers)
    if options.list or not options.names:
        print_table([{"name": name, "paper": paper.title} for name, paper in papers.items()])
        return DONE
    names = list(papers) if "all" in options.names else options.names
    for name in names:
        if name not in papers:
            near = difflib.get_close_matches(name, papers, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(papers)}"
            raise UsageError(f"there is no paper {name!r} here{hint}")
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {options.seeds}")
    published = options.papers.parent / "results" / "papers"
    trial = options.size == "smoke" and not options.redraw
    folder = options.folder or (Path("runs") / "papers" if trial else published)
    with usage_errors():
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--folder {folder} cannot be written to")
    for name in names:
        if options.redraw:
            with usage_errors():
                content = redraw(name, papers[name], folder)
        else:
            print(f"{name}: measuring at size {options.size}", file=sys.stderr)
            content = reproduce(name, papers[name], options.size, options.seeds, folder)
        claims = checked(papers[name], content["rows"])
        print_table(claims, title=f"{papers[name].title}: agreement {agreement(claims)}")
    with usage_errors():
        gallery(papers, folder)
    print(f"gallery: {folder / 'README.md'}")
    return DONE


def _papers(folder: Path) -> dict[str, Any]:
    """The papers in a folder by the names of their files, in the order of their numbers."""
    from jax_ssp.report.papers import Paper

    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; give it by --papers")
    papers: dict[str, Any] = {}
    for file in sorted(folder.glob("[a-z]*.py")):
        with usage_errors():
            paper = getattr(imported(file), "PAPER", None)
        if isinstance(paper, Paper):
            papers[file.stem] = paper
    return dict(sorted(papers.items(), key=lambda item: item[1].number))


def _tape_in(run: Path) -> Path:
    tape = run / "tape.jsonl.gz"
    if not tape.is_file():
        members = sorted(each.parent for each in run.glob("*/tape.jsonl.gz"))
        remedy = (
            f"; it holds a sweep, give one of its runs, such as {members[0]}" if members else ""
        )
        raise UsageError(f"{run} is not a run's folder, there is no tape.jsonl.gz in it{remedy}")
    return tape


def _config_in(run: Path) -> Path:
    config = run / "config.json"
    if not config.is_file():
        raise UsageError(
            f"{run} holds no config.json, which a replay needs: it says what was run; "
            f"`jax-ssp verify {run}` needs only the tape"
        )
    return config


def _devices() -> int:
    import jax

    from jax_ssp.report.tables import print_table

    rows = [
        {
            "id": device.id,
            "platform": device.platform,
            "kind": device.device_kind,
            "process": device.process_index,
            "memory": (device.memory_stats() or {}).get("bytes_limit"),
        }
        for device in jax.devices()
    ]
    print_table(rows, title=f"jax {jax.__version__}: {len(rows)} devices")
    return DONE


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


def _same_experiment(recorded: dict[str, Any], here: dict[str, Any]) -> None:
    here = json.loads(json.dumps(here))
    names = [name for name in {**recorded, **here} if recorded.get(name) != here.get(name)]
    if names:
        differences = "; ".join(
            f"{name}: recorded {recorded.get(name)}, here {here.get(name)}" for name in names
        )
        raise UsageError(f"the config file has changed since the run, in {differences}")


def _trained(arguments: dict[str, Any], observers: list[Any]) -> Result:
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
