"""Where the command line begins: it finds the command, and ends the process with its exit code.

Nothing here imports JAX, so that a typo is answered at once. Each command is a module with two
functions: `declare` says what it takes, and the command itself gives the exit code.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jax_ssp
import jax_ssp.cli.devices as devices
import jax_ssp.cli.replay as replay
import jax_ssp.cli.reproduce as reproduce
import jax_ssp.cli.run as run
import jax_ssp.cli.verify as verify
from jax_ssp.cli.exits import ended
from jax_ssp.cli.usage import parser_ends

COMMANDS = (run, replay, verify, reproduce, devices)
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
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.declare(commands)
    # What follows `run FILE` belongs to the config.
    own, rest = (argv[:2], argv[2:]) if argv[:1] == ["run"] else (argv, [])
    with parser_ends():
        options = parser.parse_args(own)
    return options.command(options, rest)


def _version() -> str:
    python = platform.python_version()
    return f"jax-ssp {jax_ssp.__version__} (jax {metadata.version('jax')}, Python {python})"
