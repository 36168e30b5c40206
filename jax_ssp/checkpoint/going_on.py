"""How a run begins in a folder, or goes on with the one that is there."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax_ssp
from jax_ssp.checkpoint.claim import BEFORE, SUMMARY, TAPE, Resume
from jax_ssp.checkpoint.metrics import MetricsWriter
from jax_ssp.checkpoint.past import Past, past_of
from jax_ssp.checkpoint.position import START, cut_back
from jax_ssp.controller.ends import Totals
from jax_ssp.controller.rows import Fold
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.tape_file import TapeWriter
from jax_ssp.runtimes.observing import added, history_row


class GoingOn:
    """What a folder holds, and from where a run goes on with it.

    Args:
        path: of the folder, which is this process's.
        called: what the user has given it by, as errors name it.

    Attributes:
        position: of the cut that the run goes on from: what was measured behind it comes again.
    """

    def __init__(self, path: Path, called: str) -> None:
        self.position: Mapping[str, Any] = START
        self._path, self._called = path, called
        self._asked = False
        self._past: Past | None = None
        self._settings: Mapping[str, Any] = {}

    def prepare(self, settings: Mapping[str, Any], resume: Resume) -> Past | None:
        """The run that is there, if a run of these settings goes on with it; see `RunFolder`."""
        self._find(resume)
        if self._past is not None:
            self._past.check(settings)
        self._settings = settings
        return self._past

    def _find(self, resume: Resume) -> None:
        if not self._asked:
            self._past = past_of(self._path, resume, self._called)
            self._asked = True

    def facts(self) -> dict[str, Any]:
        """What `config.json` says of it: settings, and when each process has begun or gone on."""
        before = [] if self._past is None else self._past.config.get("starts", [])
        at = datetime.now(UTC).isoformat(timespec="seconds")
        rows = 0 if self._past is None else len(self._past.tape)
        start = {"at": at, "rows": rows, "jax_ssp": jax_ssp.__version__}
        return {"settings": self._settings, "starts": [*before, start]}

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """While files are opened; if that fails nothing is lost, and nothing is left behind.

        From now on the run is none that has ended: its summary is put aside until there is another.

        Raises:
            ValueError: if there is a run that nobody has asked for.
        """
        self._find("never")
        before = {*self._path.iterdir()}
        summary, aside = self._path / SUMMARY, self._path / BEFORE
        try:
            if summary in before:
                os.replace(summary, aside)
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                for each in {*self._path.iterdir()} - before - {aside}:
                    each.unlink()
                if summary in before:
                    os.replace(aside, summary)
            raise

    def tape_writer(self, tape: Tape) -> TapeWriter:
        """Writes the tape, from behind the rows that are there."""
        path = self._path / TAPE
        if self._past is None:
            return TapeWriter(path, tape)
        return TapeWriter.going_on(path, self._past.tape, tape)

    def metrics_writer(self, info: Mapping[str, Any]) -> MetricsWriter:
        """Writes what is measured behind the position."""
        cut_back(self._path, self.position)
        metrics = MetricsWriter(self._path)
        metrics.on_start(info)
        if self._past is not None:
            metrics.go_on(self.position["updates"])
            if not self._past.tape.header["devices"]:  # nothing is computed, so nothing again
                _write_settled(self._past.tape, metrics)
        return metrics


def _write_settled(tape: Tape, metrics: MetricsWriter) -> None:
    """Write a row for each clock that was settled on a tape of which nothing was computed."""
    fold, totals = Fold(), Totals()
    for now, event, commands in tape:
        settled = fold.take(now, event, commands)
        for version, each in itertools.groupby(settled, lambda row: row.merge_version):
            rows = list(each)
            totals = added(totals, rows) if version >= 0 else totals
            for row in rows:
                metrics.on_clock(history_row(row, totals, None))
