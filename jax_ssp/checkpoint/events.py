"""Scalars for TensorBoard, and a file that grows by pieces whatever the disk does."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_ssp.files import AppendedFile, say

MOST_WAITING = 64 << 20  # bytes that wait for a disk that is full
EVENTS = "events.out.tfevents.*.jax_ssp"  # our files, among those that others may have there


class Pieces:
    """A file that grows by pieces, whenever it is flushed; no failure gets out of it.

    Args:
        path: of the file, which is made if need be.
        size: what of it is kept (bytes).

    Attributes:
        size: of what is kept and all pieces so far (bytes).
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self._path = path
        self.size = size
        self._hash = hashlib.sha256(_beginning(path, size))
        self._lock = threading.Lock()  # of the one who writes
        self._waiting: list[bytes] = []
        self._written = size
        self._said = False
        self._dropped = False
        self._file = AppendedFile(path, size)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def whole(self) -> bool:
        return not (self._waiting or self._dropped or self._file.gone)

    @property
    def digest(self) -> str:
        """The SHA-256 of what is kept and all pieces so far."""
        return self._hash.hexdigest()

    def add(self, piece: bytes) -> None:
        if self.size - self._written + len(piece) > MOST_WAITING:
            self._dropped = True
            return
        self._waiting.append(piece)
        self.size += len(piece)
        self._hash.update(piece)

    def flush(self) -> None:
        with self._lock:
            waiting = self._waiting[:]  # another thread may add to it meanwhile
            if not waiting or self._file.closed:
                return
            try:
                self._file.append(b"".join(waiting))
            except OSError as error:
                self._fails(error)
                return
            del self._waiting[: len(waiting)]
            self._written += sum(map(len, waiting))

    def sync(self) -> None:
        """Bring all pieces up to now to the disk; any thread may call this.

        Raises:
            OSError: if that cannot be done.
        """
        size = self.size  # more may come meanwhile
        self.flush()
        self._file.sync()
        if self._dropped or self._written < size or self._file.gone:
            raise OSError(f"{self._path} cannot be written, or was moved or deleted")

    def close(self) -> None:
        self.flush()
        try:
            self._file.close()
        except OSError as error:
            self._dropped = True
            self._fails(error)

    def _fails(self, error: OSError) -> None:
        if not self._said:
            say(f"{self._path} cannot be written: {error.strerror or error}; the run goes on")
        self._said = True


def _beginning(path: Path, size: int) -> bytes:
    """The first bytes of a file."""
    if not size:
        return b""
    with path.open("rb") as file:
        return file.read(size)


class Events:
    """Scalars on their way into a TensorBoard file: means by tag, written when told to.

    Of tensorboardX only the form of the records is used: its writer hands each scalar through a
    queue of pickles to a thread, which costs more than writing it, and fails where a disk is full.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary, self._checksum = Event, Summary, masked_crc32c
        # The time in a file's name is in whole seconds: a number tells two writers apart.
        second, nano = divmod(time.time_ns(), 10**9)
        name = f"{second}.{socket.gethostname()}.{nano}"
        self._file = Pieces(folder / EVENTS.replace("*", name))
        self._sums: dict[str, list[float]] = {}
        self._step = 0
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def _write(self, event: Any) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = [struct.pack("<I", self._checksum(part)) for part in (length, data)]
        self._file.add(length + checksums[0] + data + checksums[1])

    def add(self, group: str, values: Mapping[str, Any], step: int, end: str = "") -> None:
        self._step = step
        for name, value in values.items():
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue  # no curve can be drawn of it
            entry = self._sums.setdefault(f"{group}/{name}{end}", [0.0, 0])
            entry[0] += number
            entry[1] += 1

    def emit(self) -> None:
        if not self._sums:
            return
        value = self._summary.Value
        means = [value(tag=tag, simple_value=s / n) for tag, (s, n) in self._sums.items()]
        self._sums.clear()
        summary = self._summary(value=means)
        event = self._event(wall_time=time.time(), step=int(self._step), summary=summary)
        self._write(event)

    def go_on(self, updates: int) -> None:
        """Have a reader forget what it has read of later steps: they come again."""
        from tensorboardX.proto.event_pb2 import SessionLog

        start = SessionLog(status=SessionLog.START)
        self._write(self._event(wall_time=time.time(), step=updates + 1, session_log=start))

    @property
    def written(self) -> tuple[str, int]:
        """The name of the file, and how long it is with all that was emitted (bytes)."""
        return self._file.path.name, self._file.size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.emit()
        self._file.close()
