"""What a run has on the disk: its tape, line by line, and its checkpoints.

These are not the product's `TapeWriter` and `Steps`, though their rules are the same: what a flush
brings, which checkpoint is the newest good one, that a step has its name last. Those speak to the
file system of the machine (descriptors, `fsync`, folders of Orbax files), which loses nothing that
was not synced. To import Orbax imports JAX, and a seed syncs dozens of times, each of which takes a
real disk milliseconds. The product's files are killed at any row in
`tests/checkpoint/test_lives.py`, and its process in `experiments/benchmarks/reliability`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from jax_ssp.controller.tape import Tape
from jax_ssp.records import parsed_json
from jax_ssp.runtimes.cut import Cut
from jax_ssp.testing.simulation.audit import Audit
from jax_ssp.testing.simulation.disk import Disk

_TAPE = "tape"
_HISTORY = "history"
_STEPS = "checkpoints/"
_DAMAGED = ".damaged"
_UNFINISHED = ".unfinished"
KEPT = 2  # checkpoints


class TapeFile:
    """The tape on the disk, and the history beside it.

    Attributes:
        rows: of the tape, that are there.
        told: rows of the history that are there.
    """

    def __init__(self, disk: Disk, audit: Audit) -> None:
        self.rows = self.told = 0
        self._disk = disk
        self._audit = audit

    def read(self) -> Tape | None:
        """The tape up to its last whole line, where the file ends then; None without any."""
        content = self._disk.read(_TAPE)
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._disk.truncate(_TAPE, len(whole))
        if not whole:
            return None
        first, *lines = whole.decode().splitlines()
        tape = Tape(parsed_json(first))
        for line in lines:
            tape.read_line(line)
        self.rows = len(tape)
        self.sync()  # whoever made the file may have died before it had
        self._disk.sync_names()
        return tape

    def begin(self, tape: Tape) -> None:
        """A new file."""
        self._disk.append(_HISTORY, b"")
        self._disk.append(_TAPE, json.dumps(tape.header).encode() + b"\n")
        self.sync()
        self._disk.sync_names()

    def history(self, told: int) -> list[dict[str, Any]]:
        """The first rows of the history, so many, behind which the file ends then."""
        lines = self._disk.read(_HISTORY).splitlines(keepends=True)[:told]
        self._disk.truncate(_HISTORY, sum(map(len, lines)))
        self.told = told
        return [parsed_json(line) for line in lines]

    def flush(self, tape: Tape, history: Sequence[dict[str, Any]]) -> None:
        """Bring the files up to the run."""
        news = history[self.told :]
        if news:
            content = "".join([f"{json.dumps(row)}\n" for row in news])
            self._disk.append(_HISTORY, content.encode())
            self.told = len(history)
        lines = list(tape.lines(self.rows))
        if lines:
            self._disk.append(_TAPE, "".join([f"{line}\n" for line in lines]).encode())
            self.rows = self._audit.written = len(tape)

    def sync(self) -> None:
        """What is in the files stays there."""
        self._disk.sync(_HISTORY)
        self._disk.sync(_TAPE)
        self._audit.synced = self.rows

    def end(self, tape: Tape, history: Sequence[dict[str, Any]]) -> None:
        """The run is over."""
        self.flush(tape, history)
        end = {"end": len(tape), "params": tape.params}
        self._disk.append(_TAPE, json.dumps(end).encode() + b"\n")
        self.sync()


class Steps:
    """The checkpoints on the disk, each a hash and a line of JSON."""

    def __init__(self, disk: Disk, audit: Audit) -> None:
        self._disk = disk
        self._audit = audit

    def saving(self, made: Cut) -> Iterator[None]:
        """Save a cut, an operation of the disk at a time."""
        content = {"rows": made.rows, "facts": made.facts, "arrays": made.arrays}
        packed = json.dumps(content, separators=(",", ":")).encode()
        packed = hashlib.sha256(packed).hexdigest().encode() + packed
        name = f"{_STEPS}{made.rows:06}"
        unfinished = name + _UNFINISHED
        for each in self._disk.names():
            if each.endswith(_UNFINISHED):
                self._disk.remove(each)
        self._disk.append(unfinished, packed)
        yield
        self._disk.sync(unfinished)
        yield
        self._disk.rename(unfinished, name)
        self._disk.sync_names()
        self._audit.saved(made.rows)
        yield
        for each in self.names()[:-KEPT]:
            self._disk.remove(each)
            yield

    def names(self) -> list[str]:
        """Of those that are whole, for all that is known, in order."""
        return [n for n in self._disk.names() if n.startswith(_STEPS) and "." not in n]

    def newest(self, rows: int) -> Cut | None:
        """The newest that is whole, and not ahead of a tape of so many rows."""
        for name in reversed(self.names()):
            packed = self._disk.read(name)
            if hashlib.sha256(packed[64:]).hexdigest().encode() == packed[:64]:
                made = unpacked(packed)
                if made.rows <= rows:
                    return made
            self._disk.rename(name, name + _DAMAGED)
        return None


def unpacked(packed: bytes) -> Cut:
    """The cut that is behind a hash."""
    content: dict[str, Any] = parsed_json(packed[64:])
    return Cut(content["rows"], content["facts"], content["arrays"])
