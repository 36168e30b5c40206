"""The command line: `jax-ssp run | replay | verify | reproduce | devices`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jax_ssp.cli.config_file import parser_ends
from jax_ssp.cli.exits import BUG, DIVERGED, DONE, INTERRUPTED, UNREAD, USAGE, ended

__all__ = ["BUG", "DIVERGED", "DONE", "INTERRUPTED", "UNREAD", "USAGE", "main"]
_ABOUT = "Stale-synchronous parallel training for JAX."


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with one of the exit codes."""
    if argv is None:
        _keep_compiled()
    words = list(sys.argv[1:] if argv is None else argv)
    ended(lambda: _dispatch(words), own_process=argv is None)


def _keep_compiled() -> None:
    """Have JAX, which is not imported yet, keep what it compiles from run to run."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            kept = cache / "jax_ssp" / "compiled"
            kept.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # no home, or one that cannot be written to
            return
        if not os.access(kept, os.W_OK | os.X_OK):
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(kept)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _dispatch(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="jax-ssp", description=_ABOUT)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    running = commands.add_parser(
        "run",
        help="run a config file; `jax-ssp run FILE --help` shows every field",
        usage="jax-ssp run FILE [--workdir DIR] [--dry-run] [--FIELD VALUE ...]",
    )
    running.add_argument(
        "file", type=Path, help="a config file; `run FILE --help` shows its fields"
    )
    repeating = commands.add_parser(
        "replay",
        help="repeat a run and compare it to the last bit",
        description="Repeat a run and compare it to the last bit. This executes the run's config "
        "file, which is Python: the one that the folder names, if it lies outside the folder and "
        "has not changed since the run (its digest is recorded), or the one that --file names. "
        "`jax-ssp verify` executes nothing.",
    )
    repeating.add_argument("run", type=Path, help="a run's folder")
    repeating.add_argument(
        "--file", type=Path, help="a config file to trust: executed even if it has changed"
    )
    proving = commands.add_parser("verify", help="prove from its tape that a run kept the contract")
    proving.add_argument("run", type=Path, help="a run's folder, or a tape")
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
    with parser_ends():
        options = parser.parse_args(own)
    match options.command:
        case "run":
            from jax_ssp.cli.run import run

            return run(options.file, rest)
        case "replay":
            from jax_ssp.cli.replay import replay

            return replay(options.run, options.file)
        case "verify":
            from jax_ssp.cli.verify import verify

            return verify(options.run)
        case "reproduce":
            from jax_ssp.cli.reproduce import reproduce

            return reproduce(options)
        case _:
            from jax_ssp.cli.devices import devices

            return devices()
