"""The folder a run leaves behind.

`config.json` what was run, and from which file; `tape.jsonl.gz` the tape; `metrics.jsonl` and
TensorBoard events; `params/` the last version, and what observers keep in folders of their names
(`best/`, `ema/`); `summary.json` and `summary.png` what came of it.
The tape and the metrics are written while the run goes, so a run that dies leaves them up to there.

The folder is one run's alone, from before anything is built until all is saved (see `FolderLock`).
No failure to write ends a run: it is said once and tried again, and what does not get into the
folder in the end is saved elsewhere, the parameters and the tape first.

A folder may hold a run that was killed, or whose ends are raised: `train` goes on with it, its tape
and its metrics in the same files. So a folder is asked first (`prepare`), and told from where its
run goes on (`go_on`); what a checkpoint must know of its files is their `position`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax_ssp
from jax_ssp import checks
from jax_ssp.checkpoint.claim import (
    CONFIG,
    FORMAT,
    METRICS,
    PICTURE,
    RUN_FOLDER,
    TAPE,
    Claim,
    Resume,
)
from jax_ssp.checkpoint.going_on import GoingOn
from jax_ssp.checkpoint.leavings import Leavings, Written, elsewhere, reason
from jax_ssp.checkpoint.metrics import MetricsWriter
from jax_ssp.checkpoint.past import Past
from jax_ssp.checkpoint.position import START
from jax_ssp.checkpoint.summary import Finished
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event, Resumed
from jax_ssp.controller.tape_file import TapeWriter
from jax_ssp.failures import in_words
from jax_ssp.files import say, write_json
from jax_ssp.runtimes.observer import Observer

FLUSH_SECONDS = 2.0


class RunFolder(Observer):
    """The folder of one run, for `train(observers=[RunFolder(...)])`: what `jax-ssp run` leaves.

    Tape and metrics are written while the run goes, the last parameters and the summary when it is
    over, however it ended. The folder is made and locked here; one whose run fails before it starts
    is taken away by `close`, which the end of a `with` calls. `read_run` reads it. If it holds a
    run that was killed or interrupted, `train` goes on with that (see its `resume`).

    Args:
        path: the folder; if it holds a run, it is one to go on with.
        config: more that is to be known of the run, as facts for JSON.
        unique: take a name such as `path-2` if there is something of that name already.
        called: what the user has given the folder by, as errors name it.

    Attributes:
        path: the folder.
        lent: whether another process writes the run.
        saved_in: the folder that holds all that was saved; another one if this failed.
        problems: by file, why it is not whole in `path`; empty if all went well.
        facts: more that the summary is to say.
        finishes: whether it calls `finish` itself.

    Raises:
        ValueError: if there is a sweep in it, or another process is writing a run there.
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

    finishes = stays = True

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any] = {},
        *,
        unique: bool = False,
        called: str = RUN_FOLDER,
    ) -> None:
        checks.instance("RunFolder(config=...)", config, Mapping, "a dict of facts for JSON")
        unique = checks.flag("RunFolder(unique=...)", unique)
        called = checks.text("RunFolder(called=...)", called)
        claim = Claim(checks.path("RunFolder(path=...)", path), unique, run=True, called=called)
        self.path = self.saved_in = claim.path
        self.problems: dict[str, str] = {}
        self.facts: dict[str, Any] = {}
        self.lent = False
        self.summary: dict[str, Any] = {}
        self.config = config
        self._claims = [claim]
        self._info: Mapping[str, Any] | None = None
        self._metrics: MetricsWriter | None = None
        self._tape: TapeWriter | None = None
        self._due = 0.0
        self.called = called
        self._going = GoingOn(self.path, called)

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

    def prepare(self, settings: Mapping[str, Any], resume: Resume) -> Past | None:
        """Ask for the run that it holds, before anything is built; it may be asked again.

        Args:
            settings: of the run that is to be written here; see `settings_of`.
            resume: whether to go on with what is there.

        Returns:
            The run to go on with: say from where by `go_on` before the run begins. None if it holds
            none.

        Raises:
            ValueError: if it holds one that this run is not to, or cannot, go on with; or none, and
                it must.
        """
        if self.began:
            raise ValueError(f"{self.path} holds a run already; make another `RunFolder`.")
        return self._going.prepare(settings, resume)

    def go_on(self, position: Mapping[str, Any] = START) -> None:
        """What was measured behind this position will come again; by default all of it."""
        self._going.position = position

    def position(self) -> dict[str, Any]:
        """Where the numbers of the run stand now, for a checkpoint to keep, as facts for JSON.

        Called where `on_entry` is; the checkpoint counts only after a `sync`.

        Raises:
            OSError: if tape or numbers cannot be written.
        """
        if self._metrics is None or self._tape is None:
            raise OSError(f"{self.path / METRICS} was moved or deleted, or cannot be written")
        self._tape.flush()
        return self._metrics.position

    def sync(self) -> None:
        """Wait until all of the last `position` is on the disk; any thread may call this.

        Raises:
            OSError: if it does not get there.
        """
        if self._metrics is None or self._tape is None or self._tape.gone:
            raise OSError(f"{self.path} was moved or deleted, or cannot be written")
        self._tape.sync()
        self._metrics.sync()

    def on_start(self, info: Mapping[str, Any]) -> None:
        if self.lent:
            self._info = info
            return
        if self.began:
            raise ValueError(f"{self.path} holds a run already; make another `RunFolder`.")
        if self.finishes:
            known = {name: info.get(name) for name in ("name", "experiment")}
            self.config = {"jax_ssp": jax_ssp.__version__, **known, **self.config}
        self.config = {**self.config, **self._going.facts()}
        with self._going.opening():
            self._open(info)
        self._info = info

    def _open(self, info: Mapping[str, Any]) -> None:
        self._write_config(self.path)
        self._tape = self._going.tape_writer(info["tape"])
        self._due = time.monotonic() + FLUSH_SECONDS
        with self._carrying_on(METRICS):
            self._metrics = self._going.metrics_writer(info)

    def _write_config(self, folder: Path) -> None:
        write_json(folder / CONFIG, {"format": FORMAT, **self.config})

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        begins = type(event) is Resumed  # nothing is granted in a term that is not on the disk
        if self._tape is None or (time.monotonic() < self._due and not begins):
            return
        if self._tape.gone:
            self._make_again()
        with self._carrying_on(TAPE):
            self._tape.flush()
            if begins:
                self._tape.sync()
        self._due = time.monotonic() + FLUSH_SECONDS

    def on_clock(self, row: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            with self._carrying_on(METRICS):
                self._metrics.on_clock(row)

    def on_eval(self, row: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            with self._carrying_on(METRICS):
                self._metrics.on_eval(row)

    def on_end(self, status: str) -> None:
        if self._tape is None:
            return
        if self._tape.gone:
            self._make_again()
        with self._carrying_on(TAPE):
            self._tape.close()
        if self._metrics is not None:
            with self._carrying_on(METRICS):
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
        if self.lent:
            return self.summary
        if self._tape is not None and self._tape.gone:
            self._make_again()
        leavings = Leavings(result, error, self.facts)
        metrics = self._metrics is not None and self._metrics.whole
        self.problems = leavings.save(self.path, Written(self._write_config, self._tape, metrics))
        if self.problems:
            claim = elsewhere(leavings, self.path, Written(self._write_config), self.problems)
            if claim is not None:
                self.saved_in = claim.path
                self._claims.append(claim)
        self.summary = leavings.summary
        if leavings.broken is not None:
            raise leavings.broken
        with contextlib.suppress(Exception):  # nothing was merged; or it can be drawn again
            result.draw(self.saved_in / PICTURE)
        return self.summary

    def _make_again(self) -> None:
        """Make the folder again that was moved or deleted, with all of its files up to now."""
        assert self._info is not None
        assert self._tape is not None
        with self._carrying_on(CONFIG):
            self._claims.append(Claim(self.path, unique=False))
            before, metrics = self._tape, self._metrics
            self._going = GoingOn(self.path, self.called)  # from the beginning
            self._open(self._info)
            say(f"{self.path} was moved or deleted while its run goes on; it is made again")
            self._metrics = None  # its rows up to now are not there: `finish` writes them all
            with contextlib.suppress(OSError):
                before.close()
            if metrics is not None:
                metrics.close()

    @contextlib.contextmanager
    def _carrying_on(self, name: str) -> Iterator[None]:
        """Say the first failure to write a file, and let none of them end the run."""
        try:
            yield
        except Exception as error:
            if name not in self.problems:
                say(f"{self.path / name} cannot be written: {reason(error)}; the run goes on")
            self.problems[name] = reason(error)
