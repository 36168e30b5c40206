"""What `verify` and `replay` read: the files of a run's folder."""

from __future__ import annotations

from pathlib import Path

from jax_ssp.config_file import UsageError


def tape_in(run: Path) -> Path:
    tape = run / "tape.jsonl.gz"
    if not tape.is_file():
        members = sorted(each.parent for each in run.glob("*/tape.jsonl.gz"))
        remedy = (
            f"; it holds a sweep, give one of its runs, such as {members[0]}" if members else ""
        )
        raise UsageError(f"{run} is not a run's folder, there is no tape.jsonl.gz in it{remedy}")
    return tape


def config_in(run: Path) -> Path:
    config = run / "config.json"
    if not config.is_file():
        raise UsageError(
            f"{run} holds no config.json, which a replay needs: it says what was run; "
            f"`jax-ssp verify {run}` needs only the tape"
        )
    return config
