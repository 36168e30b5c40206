"""A run's numbers, written down while it goes: JSON Lines for programs, TensorBoard for people.

`metrics.jsonl` holds every row: one JSON object a line, `"kind"` first (`"clock"`: a settled delta;
`"eval"`: an evaluation), what was measured in its `"metrics"`. JSON has no NaN and no infinity: a
metric of such a value is written as null, and its name goes into the row's `"nonfinite"` object, as
`{"loss": "nan"}`; `read_metrics` puts it back.

TensorBoard gets evaluations as they are (`eval/...`) and the rest thinned: a point of `train/...`
(metrics) or `ssp/...` is the mean over the deltas of the last tenth of a second, against updates.
With up to 16 workers each has curves of its own too, such as `train_by_worker/loss/3`.
"""

from __future__ import annotations

import json
import math
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jax_ssp import checks
from jax_ssp.checkpoint.claim import METRICS
from jax_ssp.checkpoint.events import EVENTS, Events, Pieces
from jax_ssp.files import whole_lines
from jax_ssp.records import RECORD, check_record, one_of, parsed_json, short
from jax_ssp.runtimes.observer import Observer, measures

POINT_SECONDS = 0.1  # of real time in one TensorBoard point
EVENTS_SECONDS = 10.0  # between flushes of TensorBoard's file; each waits for the disk
MAX_WORKER_CURVES = 16
_ROW = {"kind": one_of("clock", "eval"), "metrics": RECORD}


class MetricsWriter(Observer):
    """Writes `metrics.jsonl` and TensorBoard events into a run's folder.

    A file that is there already is continued. What a run that failed has written is on disk up to
    the last second; the rest is written when the writer is closed, collected, or at exit.

    Nothing that happens to the files ends a run: what cannot be written is said once, on standard
    error, and tried again, up to 64 MiB of it.

    Args:
        folder: created if need be.
        interval: between flushes of `metrics.jsonl` (seconds of real time).
        clock: gives real time (seconds); for tests.
    """

    def __init__(
        self,
        folder: str | Path,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        folder = checks.path("MetricsWriter(folder=...)", folder)
        interval = checks.number("MetricsWriter(interval=...)", interval, least=0)
        checks.function("MetricsWriter(clock=...)", clock, "() -> seconds")
        checks.number("MetricsWriter(clock=...)()", clock())
        folder.mkdir(parents=True, exist_ok=True)
        self._before = {each.name: each.stat().st_size for each in folder.glob(EVENTS)}
        path = folder / METRICS
        self._rows = Pieces(path, size=whole_lines(path))
        self._events = Events(folder)
        self._finalizer = weakref.finalize(self, _close, self._rows, self._events)
        self._clock = clock
        self._interval = interval
        self._file_due = clock() + interval
        self._events_due = clock() + EVENTS_SECONDS
        self._point_due = clock() + POINT_SECONDS
        self._by_worker = True
        self._updates = 0  # of the last row

    @property
    def position(self) -> dict[str, Any]:
        """How far it has come, as facts for JSON: what `cut_back` cuts its files back to.

        Only what `sync` has brought there since is on the disk.
        """
        self._events.emit()
        name, size = self._events.written
        return {
            "bytes": self._rows.size,
            "sha256": self._rows.digest,
            "updates": self._updates,
            "events": {**self._before, name: size},
        }

    def sync(self) -> None:
        """Bring all rows up to now to the disk; any thread may call this.

        Raises:
            OSError: if that cannot be done.
        """
        self._rows.sync()
        self._events.flush()

    def go_on(self, updates: int) -> None:
        """What comes now was measured after so many updates, in place of what came before."""
        self._updates = updates
        self._events.go_on(updates)

    @property
    def whole(self) -> bool:
        """Whether all rows so far are in `metrics.jsonl`, once the writer is closed."""
        return self._rows.whole

    def on_start(self, info: Mapping[str, Any]) -> None:
        self._by_worker = info.get("num_workers", 0) <= MAX_WORKER_CURVES

    def on_clock(self, row: Mapping[str, Any]) -> None:
        self._write("clock", row)
        own = {**measures(row), **{name: row[name] for name in ("steps", "samples")}}
        for group, values in (("train", row["metrics"]), ("ssp", own)):
            self._events.add(group, values, row["updates"])
            if self._by_worker:
                self._events.add(f"{group}_by_worker", values, row["updates"], f"/{row['worker']}")
        self._events.add("ssp", {"samples_seen": row["samples_seen"]}, row["updates"])
        self._flush_what_is_due()

    def on_eval(self, row: Mapping[str, Any]) -> None:
        self._write("eval", row)
        self._events.emit()
        self._events.add("eval", row["metrics"], row["updates"])
        self._events.emit()
        self._flush_what_is_due()

    def on_end(self, status: str) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and close the files; nothing happens the second time."""
        self._finalizer()

    def _write(self, kind: str, row: Mapping[str, Any]) -> None:
        self._updates = max(self._updates, row["updates"])
        self._rows.add(encode_row(kind, row))

    def _flush_what_is_due(self) -> None:
        now = self._clock()
        if now >= self._point_due:
            self._events.emit()
            self._point_due = now + POINT_SECONDS
        if now >= self._file_due:
            self._rows.flush()
            self._file_due = now + self._interval
        if now >= self._events_due:
            self._events.flush()
            self._events_due = now + EVENTS_SECONDS


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read what a `MetricsWriter` has written, in order.

    Args:
        path: of `metrics.jsonl`, or of the folder it is in.

    Returns:
        The rows, NaN and infinities back in their places. A last line that breaks off (the run was
        killed, or is still going) is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not JSON, or no row of this version.
    """
    path = checks.path("read_metrics(path=...)", path)
    path = path / METRICS if path.is_dir() else path
    return decode_rows(path, path.read_bytes())


def decode_rows(path: Path, content: bytes) -> list[dict[str, Any]]:
    """The rows of a file, or of its beginning; for what is raised see `read_metrics`."""
    try:
        *lines, _broken_off = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text, and no `metrics.jsonl`: {error}.") from error
    return [_row(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1)]


def _row(where: str, line: str) -> dict[str, Any]:
    """The row of a line."""
    try:
        row = parsed_json(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {short(line)}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a row: {short(line)}.")
    check_record(where, row, _ROW)
    for name, value in row.pop("nonfinite", {}).items():
        row["metrics"][name] = float(value)
    return row


def encode_row(kind: str, row: Mapping[str, Any]) -> bytes:
    """A line of `metrics.jsonl`; what JSON has no form for is written as text."""
    metrics = {name: _plain(value) for name, value in row["metrics"].items()}
    row = {"kind": kind, **{name: _plain(value) for name, value in row.items()}}
    nonfinite = {
        name: str(value)
        for name, value in metrics.items()
        if type(value) is float and not math.isfinite(value)
    }
    row["metrics"] = {**metrics, **dict.fromkeys(nonfinite)}
    if nonfinite:
        row["nonfinite"] = nonfinite
    return json.dumps(row, allow_nan=False, default=repr).encode() + b"\n"


def _plain(value: Any) -> Any:
    """The Python number that a scalar array holds; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _close(rows: Pieces, events: Events) -> None:
    rows.close()
    events.close()
