"""What a run that is over leaves: written into its folder, what matters most first."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from jax_ssp.checkpoint.claim import BEFORE, CONFIG, METRICS, PICTURE, SUMMARY, TAPE, Claim
from jax_ssp.checkpoint.metrics import encode_row
from jax_ssp.checkpoint.summary import Finished, extent, summarize
from jax_ssp.controller.tape_file import TapeWriter, write_tape
from jax_ssp.files import replace_file, say, write_json
from jax_ssp.records import read_record


class Written(NamedTuple):
    """What of a run is in a folder before it is over.

    Attributes:
        config: writes `config.json`, if need be.
        tape: what has written the tape; None if nothing has.
        metrics: whether all rows are in `metrics.jsonl`.
    """

    config: Callable[[Path], object]
    tape: TapeWriter | None = None
    metrics: bool = False


class Leavings:
    """What came of a run, to be saved in a folder.

    Args:
        result: of the run; it may have ended early.
        error: what ended it, if it failed.
        facts: more that is to be said.

    Attributes:
        broken: what the contract was broken by, if it was.
    """

    def __init__(self, result: Finished, error: str | None, facts: Mapping[str, Any] = {}) -> None:
        self._result = result
        self._failed = error is not None
        self._more = {**facts, **({} if error is None else {"error": error})}
        self.broken: Exception | None = None

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says."""
        result = self._result
        try:
            return {**summarize(result), **self._more}
        except Exception as failure:  # the contract was broken: all is saved before it is said
            self.broken = failure
            told = {"contract": reason(failure), "tape": extent(result)}
            return {"status": result.status, "metrics": result.metrics, **self._more, **told}

    def save(self, folder: Path, written: Written) -> dict[str, str]:
        """Save all in a folder; gives what could not be saved, and why."""
        from jax_ssp.checkpoint.params import save_params  # Orbax only where there is something

        problems: dict[str, str] = {}
        result, writer = self._result, written.tape

        def attempt(name: str, write: Callable[[], object]) -> None:
            try:
                write()
            except Exception as error:
                problems[name] = reason(error)

        there = 0 if writer is None else writer.rows  # more, if it ended before it had gone on
        if writer is None or not (writer.whole or there > len(result.tape)):
            attempt(TAPE, lambda: write_tape(folder / TAPE, result.tape))
        if result.params is not None:
            attempt("params", lambda: save_params(folder, result.params))
        if result.residuals:
            attempt("residuals", lambda: save_params(folder / "residuals", result.residuals))
        for name, kept in result.kept.items():
            attempt(name, functools.partial(save_params, folder / name, kept.params))
        tape = self._more.get("tape", extent(result))
        if TAPE in problems or there > len(result.tape):
            tape = {"rows": there, "complete": False}
        attempt(SUMMARY, lambda: write_json(folder / SUMMARY, {**self.summary, "tape": tape}))
        if not (folder / CONFIG).exists():
            attempt(CONFIG, lambda: written.config(folder))
        if not written.metrics:
            attempt(METRICS, lambda: replace_file(folder / METRICS, _rows_of(result)))
        if not problems:
            self._forget(folder)
        return problems

    def _forget(self, folder: Path) -> None:
        """Take away what was kept of the same run when it ended before, and is no more."""
        with contextlib.suppress(OSError, ValueError):
            before = read_record(folder / BEFORE, {})
            for name in {*before.get("kept", ())} - {*self._result.kept}:
                shutil.rmtree(folder / name, ignore_errors=True)
        for name in (BEFORE, PICTURE, *(() if self._failed else ("error.txt",))):
            (folder / name).unlink(missing_ok=True)


def elsewhere(
    leavings: Leavings, path: Path, written: Written, problems: Mapping[str, str]
) -> Claim | None:
    """Save a run in another folder than its own, and say where; None if there is room nowhere.

    Args:
        leavings: of the run.
        path: of its folder, which has no room for it, or is no more.
        written: what of it is in the other one already.
        problems: by file, why it is not whole in its folder.
    """
    reasons = "; ".join(f"{name} ({why})" for name, why in problems.items())
    for place in dict.fromkeys((path.parent, Path.cwd(), Path(tempfile.gettempdir()))):
        try:
            claim = Claim(place.absolute() / f"{path.name}-saved", unique=True)
        except (OSError, ValueError):
            continue
        if not leavings.save(claim.path, written):
            say(f"not all could be written to {path}: {reasons}. All is in {claim.path}")
            return claim
        shutil.rmtree(claim.path, ignore_errors=True)
        claim.close()
    say(f"LOST, since it could be written nowhere: {reasons}")
    return None


def reason(error: Exception) -> str:
    """An error in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def _rows_of(result: Finished) -> bytes:
    """The lines of `metrics.jsonl` as the result has them: clocks and evaluations by updates."""
    rows = [("clock", row) for row in result.history]
    rows += [("eval", row) for row in result.evaluations]
    rows.sort(key=lambda each: each[1]["updates"])
    return b"".join(encode_row(kind, row) for kind, row in rows)
