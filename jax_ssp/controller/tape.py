"""The tape: the ordered record of the events the controller was given, and of what it answered.

The events alone make a run repeatable: all else is a function of them. The commands are kept beside
them as evidence, for `check_contract` to prove the contract from and for a replay to compare with.

In memory rows are packed, but for the last few: as objects they would be walked by every full
garbage collection, so that recording n of them would cost n squared; and to pack many at once costs
less than one by one. (What is packed is made and read by this process alone; what is read from
files is JSON.)
In a file (`tape.jsonl.gz`) the first line is the header, each further line is one row
`[now, event, commands]`, and the last line, `{"end": ..., "params": ...}`, says that the tape is
complete, and what the run came to. A file that breaks off is readable up to there.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

from jax_ssp import checks
from jax_ssp.controller.codec import as_json, from_json, packed, unpacked
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.controller.form import check_command, check_event
from jax_ssp.controller.header import check_header
from jax_ssp.files import AppendedFile
from jax_ssp.records import (
    TEXT,
    check_record,
    either,
    is_number,
    one_of,
    packed_lines,
    parsed_json,
    short,
    whole,
)

FORMAT = 4  # since a start says the weight of own deltas; 3 since pushes quote a token


class Entry(NamedTuple):
    """One row of a tape: an event, when it came (seconds), and the commands that answered it."""

    now: float
    event: Event
    commands: list[Command]


class Tape:
    """The record of one run, in order.

    Args:
        header: JSON-able facts about the run; `bound` is what `check_contract` checks against,
            `experiment` is what a replay must agree with.

    Attributes:
        header: as given.
        complete: whether the run came to its end.
        params: the fingerprint of the parameters it came to; None if it is not complete, or if
            nothing was computed.

    Example:
        >>> from jax_ssp.controller import WorkerJoined
        >>> tape = Tape({"bound": 3})
        >>> tape.append(0.5, WorkerJoined(0), [])
        >>> list(tape)
        [Entry(now=0.5, event=WorkerJoined(worker=0), commands=[])]
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        checks.instance("Tape(header=...)", header, Mapping, "a dict of facts that JSON can hold")
        try:
            self.header: dict[str, Any] = json.loads(json.dumps(dict(header)))
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"`Tape(header=...)` must be a dict of facts that JSON can hold, got "
                f"{checks.shown(header)}: {error}."
            ) from error
        self.complete = False
        self.params: str | None = None
        self._packed: list[bytes] = []  # _PACK rows in each
        self._rows: list[list[Any]] = []  # the last ones, fewer than that

    def append(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """Add what happened (`now` in seconds) and what the controller answered."""
        self._rows.append(packed(now, event, commands))
        if len(self._rows) == _PACK:
            self._packed.append(marshal.dumps(self._rows, _PACKING))
            self._rows.clear()

    def __len__(self) -> int:
        return len(self._packed) * _PACK + len(self._rows)

    def __iter__(self) -> Iterator[Entry]:
        return self.entries()

    def entries(self, first: int = 0) -> Iterator[Entry]:
        """The rows from number `first` on."""
        pack, skipped = divmod(first, _PACK)
        packs = map(marshal.loads, self._packed[pack:])
        for rows in chain(packs, [self._rows[:]]):
            for row in rows[skipped:]:
                yield Entry(*unpacked(row))
            skipped = 0

    def lines(self, first: int = 0) -> Iterator[str]:
        """The rows from number `first` on, as lines of JSON."""
        for now, event, commands in self.entries(first):
            row = (now, as_json(event), [as_json(command) for command in commands])
            yield json.dumps(row, separators=(",", ":"))

    def read_line(self, line: str) -> None:
        """Add the row that a line of JSON holds; ValueError or TypeError if it holds none."""
        row: Any = parsed_json(line)
        if self.complete:
            raise ValueError("there are rows after the end")
        if isinstance(row, dict):
            self._read_end(cast("dict[str, Any]", row))
            return
        parts = cast("list[Any]", row) if isinstance(row, list) else []
        if len(parts) != 3 or not isinstance(parts[2], list):
            raise ValueError("it must be a time, an event and a list of commands")
        now, event, answers = parts[0], from_json(parts[1]), cast("list[Any]", parts[2])
        commands = list(map(from_json, answers))
        if not is_number(now):
            raise ValueError(f"{short(now)} is not a time")
        check_event(event)
        for command in commands:
            check_command(command)
        self.append(float(now), event, commands)

    def _read_end(self, row: dict[str, Any]) -> None:
        check_record("the end", row, _END)
        if row["end"] != len(self):
            raise ValueError(f"the tape has {len(self)} rows, its end says {row['end']}")
        self.complete = True
        self.params = row["params"]


_END = {"end": whole(0), "params": either(one_of(None), TEXT)}
_PACK = 64  # rows packed at once
_PACKING = 2  # marshal's: the later ones look for equal objects, which takes longer than it saves


class TapeWriter:
    """Writes a tape to a file while it grows, so that what is there survives a crash.

    The header is on the disk at once. A flush adds all rows that are missing, or none: where the
    disk is full, the file stays readable, and the next flush brings what this one could not.

    Attributes:
        whole: whether it was closed with all rows in the file.
    """

    def __init__(self, path: str | Path, tape: Tape) -> None:
        self.whole = False
        self._tape = tape
        self._file = AppendedFile(path)
        packer = zlib.compressobj(level=6, wbits=_GZIP)
        self._file.mark = (0, packer)  # rows that are in the file, and what packed them
        self._add([json.dumps({**tape.header, "format": FORMAT})], rows=0)

    @property
    def rows(self) -> int:
        """How many rows are in the file."""
        return self._file.mark[0]

    @property
    def gone(self) -> bool:
        """Whether the file was moved or deleted."""
        return self._file.gone

    def flush(self) -> None:
        """Bring the file up to the tape; what is written can be read even if nothing follows.

        Raises:
            OSError: if it cannot be written now.
        """
        lines = list(self._tape.lines(self.rows))
        if lines:
            self._add(lines, rows=len(lines))

    def close(self) -> None:
        """Write the rest, and the end if the run came to it; nothing happens the second time.

        Raises:
            OSError: if not all could be written; what was before can be read.
        """
        if self._file.closed:
            return
        try:
            self.flush()
            end = {"end": len(self._tape), "params": self._tape.params}
            self._add([json.dumps(end)] if self._tape.complete else [], rows=0, last=True)
        finally:
            self._file.close()
        self.whole = True

    def _add(self, lines: Sequence[str], rows: int, last: bool = False) -> None:
        before, packer = self._file.mark
        packer = packer.copy()  # the one before goes on if this does not get into the file
        packed = packer.compress("".join(f"{line}\n" for line in lines).encode())
        packed += packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
        self._file.append(packed, mark=(before + rows, packer))


_GZIP = 31  # zlib's for a gzip file


def write_tape(path: str | Path, tape: Tape) -> None:
    """Write a whole tape to `path` (conventionally `tape.jsonl.gz`), in one step."""
    path = checks.path("write_tape(path=...)", path)
    checks.instance("write_tape(tape=...)", tape, Tape, "a tape such as `result.tape`")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"`write_tape(path=...)` must be in a folder that is there, got {path}."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        TapeWriter(temporary, tape).close()
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def read_tape(path: str | Path) -> Tape:
    """Read a tape; one that breaks off is read up to its last whole row, `complete` False.

    A file may be damaged, or made to do harm: it costs no more memory than a tape of its size can.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a tape, a damaged one, or of a format this version does not know.
    """
    path = checks.path("read_tape(path=...)", path)
    lines = packed_lines(path)
    try:
        header = parsed_json(next(lines, ""))
        tape_format = header.pop("format")
    except (TypeError, AttributeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a tape: it does not begin with a header.") from error
    except ValueError as error:
        named = str(path) in str(error)
        raise error if named else ValueError(f"{path} is not a tape: {error}.") from error
    if tape_format != FORMAT:
        older = tape_format in range(1, FORMAT)
        remedy = "record the run again with it" if older else "read it with the one that wrote it"
        raise ValueError(
            f"{path} is a tape of format {short(tape_format)}, and this version reads format "
            f"{FORMAT} alone; {remedy}."
        )
    try:
        check_header(header)
    except ValueError as error:
        raise ValueError(f"{path} is a damaged tape: {error}") from error
    tape = Tape(header)
    for number, line in enumerate(lines, start=2):
        try:
            tape.read_line(line)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            why = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{path}, line {number} is not a row of a tape ({why}): {short(line)}."
            ) from error
    return tape
