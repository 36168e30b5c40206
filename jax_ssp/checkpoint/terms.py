"""When each term of a run began, by the time outside: what the tape's own seconds do not tell.

The times of a tape go on where they stopped, however long nobody ran. So a folder's `terms.jsonl`
has a line for the start of a run and for each resume, from which `jax_ssp.report.goodput` knows how
long it was down, and how long it took to come back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event, Resumed
from jax_ssp.controller.tape import Tape
from jax_ssp.files import AppendedFile, whole_lines
from jax_ssp.records import NUMBER, check_record, parsed_json, read_bytes, whole
from jax_ssp.runtimes.observer import Observer

FILE = "terms.jsonl"
_TERM = {
    "row": whole(0),
    "num_workers": whole(1),
    "began": NUMBER,
    "rows_replayed": whole(0),
    "restore_seconds": NUMBER,
}


def read_terms(folder: Path) -> list[dict[str, Any]]:
    """The terms of a run, as far as its folder knows them; a torn or strange line ends them.

    Each has `row` (of the tape, that began it), `num_workers`, `began` (seconds since 1970, before
    anything was restored), `rows_replayed` and `restore_seconds`.
    """
    terms: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        for line in read_bytes(folder / FILE).splitlines():
            term = parsed_json(line)
            check_record(FILE, term, _TERM)
            terms.append(term)
    return terms


def terms_of(folder: Path) -> dict[str, Any]:
    """What the header of a run's tape says of its terms, once it is read or over."""
    terms = read_terms(folder)
    return {"terms": terms} if terms else {}


class Terms(Observer):
    """Writes down when a term began, and how long it took to restore the run.

    Args:
        folder: of the run.
        term: that this process begins; 0 if the run begins.
    """

    def __init__(self, folder: Path, term: int) -> None:
        self._folder = folder
        self._term = term
        self._tape: Tape | None = None
        self._workers = 0
        self._began = self._since = 0.0
        self._rows = 0  # since then, while the run is being restored
        self._restoring = False

    def on_start(self, info: Mapping[str, Any]) -> None:
        self._tape, self._workers = info["tape"], info["num_workers"]
        self._began, self._since = time.time(), time.monotonic()
        self._rows, self._restoring = 0, self._term > 0

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if not self._restoring:
            if not (self._rows or self._term):  # not before: the run may not begin after all
                self._add(0, 0, 0.0)
                self._rows = 1
            return
        if type(event) is Resumed and event.term == self._term:  # those before happen again
            assert self._tape is not None
            self._add(len(self._tape) - 1, self._rows, time.monotonic() - self._since)
            self._restoring = False
        self._rows += 1

    def on_end(self, status: str) -> None:
        if self._tape is not None:
            self._tape.header.update(terms_of(self._folder))

    def _add(self, row: int, replayed: int, seconds: float) -> None:
        term = dict(zip(_TERM, (row, self._workers, self._began, replayed, seconds), strict=True))
        path = self._folder / FILE
        with suppress(OSError):  # nobody's statistics are worth a run
            file = AppendedFile(path, whole_lines(path))
            try:
                file.append(f"{json.dumps(term)}\n".encode())
            finally:
                file.close()
