"""What `verify` and `replay` read: the files of a run's folder, whoever it comes from.

What is damaged is a `UsageError` of one line. The config file that a folder names is executed only

* if it lies outside the run's folder, so that a folder never brings code of its own;
* if it is, to the last byte, the file that was run: its digest (SHA-256) is in `config.json`, and
  the bytes that were compared are those that are executed, never a compiled copy beside them.

`--file FILE` names a file that the user trusts: it is executed whatever its digest, which is said.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.cli.config_file import UsageError, digest_of, parsed, usage_errors
from jax_ssp.records import (
    RECORD,
    TEXT,
    TEXTS,
    TRUTH,
    check_record,
    read_bytes,
    read_record,
    short,
    whole,
)

if TYPE_CHECKING:
    from jax_ssp.controller.tape import Tape
    from jax_ssp.training.experiment import Experiment

CONFIG = {"file": TEXT, "sha256": TEXT, "overrides": TEXTS, "index": whole(0), "experiment": RECORD}
SUMMARY = {"status": TEXT, "tape": RECORD}
SUMMARY_OF_TAPE = {"rows": whole(0), "complete": TRUTH}


def tape_of(run: Path) -> Tape:
    """The tape in a run's folder, or in a file; it must come as far as the folder says."""
    from jax_ssp.controller.contract import check_header
    from jax_ssp.controller.tape import read_tape

    with usage_errors():
        path = run if run.is_file() else _tape_in(run)
        tape = read_tape(path)
        try:
            check_header(tape.header, of_a_run=True)
        except ValueError as error:
            raise UsageError(f"{path} is a damaged tape: {error}") from error
        if path.name == "tape.jsonl.gz":
            _check_end(path.parent, tape)
    return tape


def config_of(run: Path) -> dict[str, Any]:
    """What `config.json` of a run's folder says was run."""
    config = run / "config.json"
    if not config.is_file():
        raise UsageError(
            f"{run} holds no config.json, which a replay needs: it says what was run; "
            f"`jax-ssp verify {run}` needs only the tape"
        )
    with usage_errors():
        return read_record(config, CONFIG)


def experiment_of(run: Path, config: dict[str, Any], trusted: Path | None) -> Experiment:
    """The experiment that was run, of the config file, which is executed here.

    Args:
        run: the run's folder.
        config: its `config.json`.
        trusted: a config file that the user names, to be executed in place of the folder's.
    """
    _check_overrides(config["overrides"])
    file = Path(config["file"]) if trusted is None else trusted
    source = _source_of(run, config, file, trusted is not None)
    print(f"executing the config file {file}", file=sys.stderr)
    sys.path[:] = [each for each in sys.path if not _within(Path(each), run)]
    experiments, _ = parsed(file, config["overrides"], source)
    if config["index"] >= len(experiments):
        raise UsageError(
            f"{run / 'config.json'} names experiment {config['index']}, and {file} gives "
            f"{len(experiments)}"
        )
    return experiments[config["index"]]


def _tape_in(run: Path) -> Path:
    tape = run / "tape.jsonl.gz"
    if not tape.is_file():
        members = sorted(each.parent for each in run.glob("*/tape.jsonl.gz"))
        remedy = (
            f"; it holds a sweep, give one of its runs, such as {members[0]}" if members else ""
        )
        raise UsageError(f"{run} is not a run's folder, there is no tape.jsonl.gz in it{remedy}")
    return tape


def _check_end(run: Path, tape: Tape) -> None:
    """Raise ValueError if the folder says that the run came further than its tape.

    What a killed run leaves has no summary and no parameters, and may break off anywhere.
    """
    found = f"{run / 'tape.jsonl.gz'} is damaged: it breaks off after {len(tape)} rows"
    summary = run / "summary.json"
    if summary.exists():
        told = read_record(summary, SUMMARY)["tape"]
        check_record(f"`tape` in {summary}", told, SUMMARY_OF_TAPE)
        if not tape.complete and (told["complete"] or told["rows"] != len(tape)):
            ended = "to the end" if told["complete"] else "the last of the run"
            raise ValueError(f"{found}, but summary.json says that {told['rows']} lead {ended}.")
    elif not tape.complete and (run / "params_manifest.json").exists():
        raise ValueError(f"{found}, but the run's last parameters are there.")


def _source_of(run: Path, config: dict[str, Any], file: Path, trusted: bool) -> bytes:
    """What the config file says, if it may be executed."""
    with usage_errors():  # a name may be too long for any file
        there = file.is_file()
    if not there:
        raise UsageError(f"there is no config file {file}; name it by --file FILE")
    if not trusted and _within(file, run):
        raise UsageError(
            f"{file} lies in the run's own folder, and what a folder brings is not executed; if "
            f"you trust it, name it: --file {file}"
        )
    with usage_errors():
        source = read_bytes(file)
    if digest_of(source) != config["sha256"]:
        differs = f"{file} is not the config file that was run: it has changed since"
        if not trusted:
            raise UsageError(f"{differs}; nothing of it was executed. Name one to trust: --file")
        print(f"{differs}; it is executed since --file names it", file=sys.stderr)
    return source


def _within(path: Path, run: Path) -> bool:
    """Whether this is the run's folder or in it, whatever links lead there."""
    path = path.resolve()
    return any(each.samefile(run) for each in (path, *path.parents) if each.exists())


def _check_overrides(words: list[str]) -> None:
    """Only fields are overridden: no word may have the parser print, write a file or stop."""
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if name in ("-h", "--help") or name.startswith("--tyro"):
            raise UsageError(f"the overrides in config.json hold {short(word)}, which is no field")
