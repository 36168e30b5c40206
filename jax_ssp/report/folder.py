"""The folder a run leaves behind.

`config.json` what was run, and from which file; `tape.jsonl.gz` the tape; `metrics.jsonl` and
TensorBoard events; `params/` the last version; `summary.json` and `summary.png` what came of it.
The tape and the metrics are written while the run goes, so a run that dies leaves them up to there.

The folder is one run's alone, from before anything is built until all is saved (see `FolderLock`).
No failure to write ends a run: it is said once and tried again, and what does not get into the
folder in the end is saved elsewhere, the parameters and the tape first.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jax_ssp import checks
from jax_ssp.checkpoint.params import save_params
from jax_ssp.controller import check_contract
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.controller.tape import TapeWriter, write_tape
from jax_ssp.files import FolderInUse, FolderLock, replace_file, say
from jax_ssp.report.metrics import MetricsWriter, encode_row
from jax_ssp.runtimes.observer import Observer
from jax_ssp.training.result import Result

FLUSH_SECONDS = 2.0
CONFIG, TAPE, METRICS, SUMMARY = "config.json", "tape.jsonl.gz", "metrics.jsonl", "summary.json"
_OF_A_RUN = (CONFIG, TAPE, METRICS, SUMMARY, "params_manifest.json", "comparison.json")


class RunFolder(Observer):
    """Writes a run's folder while the run goes; `finish` adds what the result gives.

    The folder is made and locked here; one whose run fails before it starts is taken away again by
    `close`, which the end of a `with` calls.

    Args:
        path: the folder; it must not hold a run yet.
        config: what was run, as JSON-able facts.
        unique: take a name such as `path-2` if there is something of that name already.

    Attributes:
        path: the folder.
        saved_in: the folder that holds all that was saved; another one if this failed.
        problems: by file, why it is not whole in `path`; empty if all went well.

    Raises:
        ValueError: if there is a run in it already, or another process is writing one there.
        OSError: if it cannot be made.
    """

    def __init__(
        self, path: str | Path, config: Mapping[str, Any], *, unique: bool = False
    ) -> None:
        checks.instance("RunFolder(config=...)", config, Mapping, "a dict of facts for JSON")
        unique = checks.flag("RunFolder(unique=...)", unique)
        claim = Claim(checks.path("RunFolder(path=...)", path), unique)
        self.path = self.saved_in = claim.path
        self.problems: dict[str, str] = {}
        self._config = config
        self._claims = [claim]
        self._info: Mapping[str, Any] | None = None
        self._metrics: MetricsWriter | None = None
        self._tape: TapeWriter | None = None
        self._due = 0.0

    @property
    def began(self) -> bool:
        """Whether its run has begun."""
        return self._info is not None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the folder; without a run it is taken away."""
        for claim in self._claims:
            claim.close()

    def on_start(self, info: Mapping[str, Any]) -> None:
        before = {*self.path.iterdir()}
        try:
            self._open(info)
        except BaseException:  # before the run: nothing is lost, and nothing is left behind
            with contextlib.suppress(OSError):
                for each in {*self.path.iterdir()} - before:
                    each.unlink()
            raise
        self._info = info

    def _open(self, info: Mapping[str, Any]) -> None:
        write_json(self.path / CONFIG, self._config)
        self._tape = TapeWriter(self.path / TAPE, info["tape"])
        self._due = time.monotonic() + FLUSH_SECONDS
        with self._going_on(METRICS):
            self._metrics = MetricsWriter(self.path)
            self._metrics.on_start(info)

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if time.monotonic() < self._due or self._tape is None:
            return
        if self._tape.gone:
            self._make_again()
        with self._going_on(TAPE):
            self._tape.flush()
        self._due = time.monotonic() + FLUSH_SECONDS

    def on_clock(self, row: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            with self._going_on(METRICS):
                self._metrics.on_clock(row)

    def on_eval(self, row: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            with self._going_on(METRICS):
                self._metrics.on_eval(row)

    def on_end(self, status: str) -> None:
        if self._tape is None:
            return
        if self._tape.gone:
            self._make_again()
        with self._going_on(TAPE):
            self._tape.close()
        if self._metrics is not None:
            with self._going_on(METRICS):
                self._metrics.on_end(status)

    def finish(self, result: Result, error: str | None = None) -> dict[str, Any]:
        """Save the last version, the summary and its figure.

        Args:
            result: of the run; it may have ended early.
            error: what ended it, if it failed.

        Returns:
            The summary. What could not be written is in `problems`.
        """
        if self._tape is not None and self._tape.gone:
            self._make_again()
        broken: list[Exception] = []

        @functools.cache
        def summary() -> dict[str, Any]:
            more = {} if error is None else {"error": error}
            try:
                return {**summarize(result), **more}
            except Exception as failure:  # the contract was broken: all is saved before it is said
                broken.append(failure)
                told = {"contract": _reason(failure), "tape": _extent(result)}
                return {"status": result.status, **more, **told}

        self.problems = self._save(self.path, result, summary)
        if self.problems:
            self._save_elsewhere(result, summary)
        if broken:
            raise broken[0]
        with contextlib.suppress(Exception):  # the picture can be drawn again
            self._draw(result)
        return summary()

    def _draw(self, result: Result) -> None:
        if len(result.schedule):
            from jax_ssp.report.plots import run_summary  # matplotlib only when it draws

            unit = f"{result.tape.header['time']} seconds"
            run_summary(result.schedule, result.evaluations, self.saved_in / "summary.png", unit)

    def _save(
        self, folder: Path, result: Result, summary: Callable[[], Mapping[str, Any]]
    ) -> dict[str, str]:
        """Save all of a run, what matters most first; gives what could not be saved, and why."""
        problems: dict[str, str] = {}

        def attempt(name: str, write: Callable[[], object]) -> None:
            try:
                write()
            except Exception as error:
                problems[name] = _reason(error)

        writer = self._tape if folder == self.path else None
        if writer is None or not writer.whole:
            attempt(TAPE, lambda: write_tape(folder / TAPE, result.tape))
        if result.params is not None:
            attempt("params", lambda: save_params(folder, result.params))
        if result.residuals:
            attempt("residuals", lambda: save_params(folder / "residuals", result.residuals))
        rows, complete = len(result.tape), result.tape.complete
        if TAPE in problems:
            rows, complete = writer.rows if writer is not None else 0, False
        tape = {"rows": rows, "complete": complete}
        attempt(SUMMARY, lambda: write_json(folder / SUMMARY, {**summary(), "tape": tape}))
        if not (folder / CONFIG).exists():
            attempt(CONFIG, lambda: write_json(folder / CONFIG, self._config))
        if writer is None or self._metrics is None or not self._metrics.whole:
            attempt(METRICS, lambda: replace_file(folder / METRICS, _rows_of(result)))
        return problems

    def _save_elsewhere(self, result: Result, summary: Callable[[], Mapping[str, Any]]) -> None:
        """Save a run for which its folder has no room, or that has no folder any more."""
        name = f"{self.path.name}-saved"
        for place in dict.fromkeys((self.path.parent, Path.cwd(), Path(tempfile.gettempdir()))):
            try:
                claim = Claim(place.absolute() / name, unique=True)
            except (OSError, ValueError):
                continue
            problems = self._save(claim.path, result, summary)
            if not problems:
                self.saved_in = claim.path
                self._claims.append(claim)
                break
            shutil.rmtree(claim.path, ignore_errors=True)
            claim.close()
        reasons = "; ".join(f"{name} ({why})" for name, why in self.problems.items())
        if self.saved_in != self.path:
            say(f"not all could be written to {self.path}: {reasons}. All is in {self.saved_in}")
        else:
            say(f"LOST, since it could be written nowhere: {reasons}")

    def _make_again(self) -> None:
        """Make the folder again that was moved or deleted, with all of its files up to now."""
        assert self._info is not None
        assert self._tape is not None
        with self._going_on(CONFIG):
            self._claims.append(Claim(self.path, unique=False))
            before, metrics = self._tape, self._metrics
            self._open(self._info)
            say(f"{self.path} was moved or deleted while its run goes on; it is made again")
            self._metrics = None  # its rows up to now are not there: `finish` writes them all
            with contextlib.suppress(OSError):
                before.close()
            if metrics is not None:
                metrics.close()

    @contextlib.contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        """Say the first failure to write a file, and let none of them end the run."""
        try:
            yield
        except Exception as error:
            if name not in self.problems:
                say(f"{self.path / name} cannot be written: {_reason(error)}; the run goes on")
            self.problems[name] = _reason(error)


class Claim:
    """A folder that is its owner's alone: made if need be, locked, and without a run in it.

    Args:
        path: of the folder.
        unique: take a name such as `path-2` if there is something of that name already.

    Attributes:
        path: of the folder that is claimed now.

    Raises:
        ValueError: if it holds a run, is in use, or is no folder.
        OSError: if it cannot be made.
    """

    def __init__(self, path: Path, unique: bool) -> None:
        path = path.absolute()  # the user's code may change the directory
        for number in itertools.count(1):
            self.path = path if number == 1 else path.with_name(f"{path.name}-{number}")
            self._made = [each for each in (self.path, *self.path.parents) if not each.exists()]
            try:
                self.path.mkdir(parents=True, exist_ok=not unique)
                self._lock = self._locked()
                break
            except FileExistsError as error:
                if not unique:
                    raise ValueError(
                        f"{path} is not a folder; give another `--workdir`."
                    ) from error
            except BaseException:
                _remove_empty(self._made)
                raise
        self._release = weakref.finalize(self, _released, self._lock, self._made)

    def _locked(self) -> FolderLock:
        try:
            lock = FolderLock(self.path)
        except FolderInUse as error:
            raise FolderInUse(
                f"{error} Wait until that has ended, or give another `--workdir`."
            ) from error
        if not lock.held:
            say(f"{self.path} cannot be locked there; let no other run write into it")
        if _holds_a_run(self.path):
            lock.release()
            raise ValueError(f"{self.path} holds a run already; give another `--workdir`.")
        return lock

    def close(self) -> None:
        """Let others have it; one that was made here and is empty is taken away."""
        self._release()


def _holds_a_run(folder: Path) -> bool:
    """Whether a run, finished or not, or a sweep of them is in the folder."""
    here = any((folder / name).exists() for name in _OF_A_RUN)
    return here or any((each.parent / TAPE).exists() for each in folder.glob(f"*/{CONFIG}"))


def _released(lock: FolderLock, made: Sequence[Path]) -> None:
    lock.release()
    _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for folder in folders:
            folder.rmdir()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def _rows_of(result: Result) -> bytes:
    """The lines of `metrics.jsonl` as the result has them: clocks and evaluations by updates."""
    rows = [("clock", row) for row in result.history]
    rows += [("eval", row) for row in result.evaluations]
    rows.sort(key=lambda each: each[1]["updates"])
    return b"".join(encode_row(kind, row) for kind, row in rows)


def _extent(result: Result) -> dict[str, Any]:
    """How far the tape goes, so that a reader can tell whether it is damaged."""
    return {"rows": len(result.tape), "complete": result.tape.complete}


def summarize(result: Result) -> dict[str, Any]:
    """A result as JSON-able facts, the last evaluation's metrics among them."""
    report = check_contract(result.tape)
    return {
        "status": result.status,
        "metrics": result.metrics,
        "policy": result.tape.header["policy"],
        "num_workers": result.tape.header["num_workers"],
        "updates": result.updates,
        "versions": result.version,
        "dropped": report.dropped,
        "cancelled": report.cancelled,
        "not_finite": result.not_finite,
        "passed_over": sum(row["passed_over"] for row in result.evaluations),
        "time": result.tape.header["time"],
        "seconds": result.seconds,
        "wall_seconds": result.wall_seconds,
        "computing": result.computing,
        "mean_staleness": report.mean_staleness,
        "max_staleness": report.max_staleness,
        "max_lag": report.max_lag,
        "contract": "kept",
        "tape": _extent(result),
    }


def write_json(path: Path, content: Mapping[str, Any], indent: int = 2) -> None:
    """Write strict JSON in one step: what is not finite becomes null."""
    replace_file(path, json.dumps(_strict(content), indent=indent, allow_nan=False) + "\n")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _strict(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
