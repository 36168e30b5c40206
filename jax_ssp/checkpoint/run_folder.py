"""The folder a run leaves behind.

`config.json` what was run, and from which file; `tape.jsonl.gz` the tape; `metrics.jsonl` and
TensorBoard events; `params/` the last version, and what observers keep in folders of their names
(`best/`, `ema/`); `summary.json` and `summary.png` what came of it.
The tape and the metrics are written while the run goes, so a run that dies leaves them up to there.

The folder is one run's alone, from before anything is built until all is saved (see `FolderLock`).
No failure to write ends a run: it is said once and tried again, and what does not get into the
folder in the end is saved elsewhere, the parameters and the tape first.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax_ssp
from jax_ssp import checks
from jax_ssp.checkpoint.claim import CONFIG, FORMAT, METRICS, PICTURE, SUMMARY, TAPE, Claim
from jax_ssp.checkpoint.metrics import MetricsWriter, encode_row
from jax_ssp.checkpoint.params import save_params
from jax_ssp.checkpoint.summary import Finished, extent, summarize
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.controller.tape_file import TapeWriter, write_tape
from jax_ssp.failures import in_words
from jax_ssp.files import replace_file, say, write_json
from jax_ssp.runtimes.observer import Observer

FLUSH_SECONDS = 2.0


class RunFolder(Observer):
    """The folder of one run, for `train(observers=[RunFolder(...)])`: what `jax-ssp run` leaves.

    Tape and metrics are written while the run goes, the last parameters and the summary when it is
    over, however it ended. The folder is made and locked here; one whose run fails before it starts
    is taken away by `close`, which the end of a `with` calls. `read_run` reads it.

    Args:
        path: the folder; it must not hold a run yet.
        config: more that is to be known of the run, as facts for JSON.
        unique: take a name such as `path-2` if there is something of that name already.

    Attributes:
        path: the folder.
        saved_in: the folder that holds all that was saved; another one if this failed.
        problems: by file, why it is not whole in `path`; empty if all went well.
        finishes: whether it calls `finish` itself.

    Raises:
        ValueError: if there is a run in it already, or another process is writing one there.
        OSError: if it cannot be made.

    Example:
        >>> import tempfile, jax_ssp as ssp
        >>> path = tempfile.mkdtemp() + "/mine"
        >>> rehearsal = ssp.Virtual(num_workers=2, compute=False)
        >>> with ssp.RunFolder(path, {"why": "to see"}) as folder:
        ...     result = ssp.train(runtime=rehearsal, num_clocks=3, observers=[folder])
        >>> run = ssp.read_run(path)
        >>> run.status, run.config["why"], len(run.schedule)
        ('done', 'to see', 6)
    """

    finishes = True

    def __init__(
        self, path: str | Path, config: Mapping[str, Any] = {}, *, unique: bool = False
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

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the folder; without a run it is taken away."""
        for claim in self._claims:
            claim.close()

    def on_start(self, info: Mapping[str, Any]) -> None:
        if self.began:
            raise ValueError(f"{self.path} holds a run already; make another `RunFolder`.")
        before = {*self.path.iterdir()}
        if self.finishes:
            known = {name: info.get(name) for name in ("name", "experiment")}
            self._config = {"jax_ssp": jax_ssp.__version__, **known, **self._config}
        try:
            self._open(info)
        except BaseException:  # before the run: nothing is lost, and nothing is left behind
            with contextlib.suppress(OSError):
                for each in {*self.path.iterdir()} - before:
                    each.unlink()
            raise
        self._info = info

    def _open(self, info: Mapping[str, Any]) -> None:
        self._write_config(self.path)
        self._tape = TapeWriter(self.path / TAPE, info["tape"])
        self._due = time.monotonic() + FLUSH_SECONDS
        with self._going_on(METRICS):
            self._metrics = MetricsWriter(self.path)
            self._metrics.on_start(info)

    def _write_config(self, folder: Path) -> None:
        write_json(folder / CONFIG, {"format": FORMAT, **self._config})

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

    def on_result(self, result: Any, error: BaseException | None) -> None:
        if not (self.began and self.finishes):
            return
        self.finishes = False
        try:
            self.finish(result, None if error is None else in_words(error))
        finally:
            self.close()

    def finish(self, result: Finished, error: str | None = None) -> dict[str, Any]:
        """Save the last version and the summary, and draw the run.

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
                told = {"contract": _reason(failure), "tape": extent(result)}
                return {"status": result.status, **more, **told}

        self.problems = self._save(self.path, result, summary)
        if self.problems:
            self._save_elsewhere(result, summary)
        if broken:
            raise broken[0]
        with contextlib.suppress(Exception):  # nothing was merged; or it can be drawn again
            result.draw(self.saved_in / PICTURE)
        return summary()

    def _save(
        self, folder: Path, result: Finished, summary: Callable[[], Mapping[str, Any]]
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
        for name, kept in result.kept.items():
            attempt(name, functools.partial(save_params, folder / name, kept.params))
        tape = extent(result)
        if TAPE in problems:
            tape = {"rows": writer.rows if writer is not None else 0, "complete": False}
        attempt(SUMMARY, lambda: write_json(folder / SUMMARY, {**summary(), "tape": tape}))
        if not (folder / CONFIG).exists():
            attempt(CONFIG, lambda: self._write_config(folder))
        if writer is None or self._metrics is None or not self._metrics.whole:
            attempt(METRICS, lambda: replace_file(folder / METRICS, _rows_of(result)))
        return problems

    def _save_elsewhere(self, result: Finished, summary: Callable[[], Mapping[str, Any]]) -> None:
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


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


def _rows_of(result: Finished) -> bytes:
    """The lines of `metrics.jsonl` as the result has them: clocks and evaluations by updates."""
    rows = [("clock", row) for row in result.history]
    rows += [("eval", row) for row in result.evaluations]
    rows.sort(key=lambda each: each[1]["updates"])
    return b"".join(encode_row(kind, row) for kind, row in rows)
