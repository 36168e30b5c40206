"""What `verify` and `replay` read: the files of a run's folder, whoever it comes from.

What is damaged is a `UsageError` of one line. The config file that a folder names is executed only

* if it lies outside the run's folder, so that a folder never brings code of its own;
* if it is, to the last byte, the file that was run: its digest (SHA-256) is in `config.json`, and
  the bytes that were compared are those that are executed, never a compiled copy beside them.

`--file FILE` names a file that the user trusts: it is executed whatever its digest, which is said.
The same holds of the files of parts that the overrides name, such as `--policy my_module:Mine`:
they lie outside, and are what they were where the folder says what that was.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_ssp.checkpoint.claim import TAPE
from jax_ssp.checkpoint.run_reader import Run, read_run_tape
from jax_ssp.cli.config_file import found_from, parsed, root_of
from jax_ssp.cli.usage import UsageError, usage_errors
from jax_ssp.files import digest_of
from jax_ssp.records import RECORD, TEXT, TEXTS, check_record, read_bytes, short, whole

if TYPE_CHECKING:
    from jax_ssp.controller.tape import Tape
    from jax_ssp.training.experiment import Experiment

PART = {"file": TEXT, "sha256": TEXT}
CONFIG = {"file": TEXT, "sha256": TEXT, "overrides": TEXTS, "index": whole(0), "experiment": RECORD}


def tape_of(path: Path) -> Tape:
    """The tape of a run's folder, or that a file holds."""
    with usage_errors():
        alone = path.is_file() and path.name != TAPE
        return read_run_tape(path) if alone else run_of(path).tape


def run_of(path: Path) -> Run:
    """The run of a folder, or whose tape this is."""
    with usage_errors():
        return Run.read(path.parent if path.is_file() and path.name == TAPE else path)


def config_of(run: Run) -> dict[str, Any]:
    """What `config.json` of a run's folder says was run."""
    with usage_errors():
        if "file" not in run.config and "jax_ssp" in run.config:
            raise UsageError(
                f"{run.path} was written by a program of its own (`ssp.RunFolder`), not by "
                "`jax-ssp run`, so only that can repeat it: give its `train` "
                "`runtime=ssp.Replay(ssp.read_run(FOLDER).tape)`"
            )
        check_record(str(run.path / "config.json"), run.config, CONFIG)
    return run.config


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
    recorded = _recorded_parts(run, config)
    for folder in (Path.cwd(), *map(root_of, recorded)):
        if not _within(folder, run):
            found_from(folder)

    def asked(part: Path) -> None:
        if _within(part, run):
            raise UsageError(f"{part} lies in the run's own folder; it is not executed")
        with usage_errors():
            changed = part in recorded and digest_of(read_bytes(part)) != recorded[part]
        if changed:
            raise UsageError(f"{part}, of a part that the run names, has changed since the run")

    experiments, _ = parsed(file, config["overrides"], source, asked)
    if config["index"] >= len(experiments):
        raise UsageError(
            f"{run / 'config.json'} names experiment {config['index']}, and {file} gives "
            f"{len(experiments)}"
        )
    return experiments[config["index"]]


def _recorded_parts(run: Path, config: dict[str, Any]) -> dict[Path, str]:
    """The files of the user's own parts, and their digests."""
    where = f"`parts` in {run / 'config.json'}"
    with usage_errors():
        check_record(str(run / "config.json"), config, {"parts": RECORD}, needed=False)
        parts: dict[str, Any] = config.get("parts", {})
        check_record(where, parts, dict.fromkeys(parts, RECORD))
        found = [part for part in parts.values() if "file" in part]
        for part in found:
            check_record(where, part, PART)
        return {Path(part["file"]).resolve(): part["sha256"] for part in found}


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
