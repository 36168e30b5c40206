"""The tape: the ordered record of the events the controller was given, and of what it answered.

The events alone make a run repeatable: all else is a function of them. The commands are kept beside
them as evidence, for `check_contract` to prove the contract from and for a replay to compare with.

In memory rows are packed, but for the last few: as objects they would be walked by every full
garbage collection, so that recording n of them would cost n squared; and to pack many at once costs
less than one by one. (What is packed is made and read by this process alone; what is read from
files is JSON.)
As lines of JSON they are in files; see `tape_file.py`.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

from jax_ssp import checks
from jax_ssp.controller.codec import as_json, from_json, packed, unpacked
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event, Resumed
from jax_ssp.controller.form import check_command, check_event
from jax_ssp.records import (
    TEXT,
    check_record,
    either,
    is_number,
    one_of,
    parsed_json,
    short,
    whole,
)


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
        [Entry(now=0.5, event=WorkerJoined(worker=0, donor=None), commands=[])]
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
        rows = self._rows
        rows.append(packed(now, event, commands))
        if len(rows) == _PACK:
            self._packed.append(marshal.dumps(rows, _PACKING))
            rows.clear()

    def reopen(self) -> None:
        """The run goes on after its end: more rows come, the first of them a `Resumed`."""
        self.complete, self.params = False, None

    @property
    def resumes(self) -> int:
        """How often another process has gone on with the run."""
        return sum(type(event) is Resumed for _, event, _ in self)

    def __len__(self) -> int:
        return len(self._packed) * _PACK + len(self._rows)

    def __iter__(self) -> Iterator[Entry]:
        return self.entries()

    def entries(self, first: int = 0) -> Iterator[Entry]:
        """The rows from number `first` on; none, while there are not so many."""
        if first >= len(self):
            return
        pack, skipped = divmod(first, _PACK)
        packs = map(marshal.loads, self._packed[pack:])
        for rows in chain(packs, [self._rows[:]]):
            for row in rows[skipped:]:
                yield Entry(*unpacked(row))
            skipped = 0

    def lines(self, first: int = 0) -> Iterator[str]:
        """The rows from number `first` on, as lines of JSON."""
        for now, event, commands in self.entries(first):
            yield _AS_LINE((now, as_json(event), list(map(as_json, commands))))

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
# One encoder for all lines: `json.dumps` would make one for each. No row is in itself, so that need
# not be looked for.
_AS_LINE = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode
_PACK = 64  # rows packed at once
_PACKING = 2  # marshal's: the later ones look for equal objects, which takes longer than it saves
