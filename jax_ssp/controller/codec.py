"""Events and commands as plain rows: packed flat for memory, and as JSON for files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from jax_ssp.controller.commands import (
    COMMANDS,
    Cancel,
    Command,
    Drop,
    Fence,
    Merge,
    Merged,
    StartClock,
)
from jax_ssp.controller.events import EVENTS, DeltaReady, Event, Token, WorkerDone

_KINDS: tuple[type[Any], ...] = (*EVENTS, *COMMANDS)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_NAMED = {kind.__name__: kind for kind in _KINDS}
_DELTA, _MERGE, _START = _CODES[DeltaReady], _CODES[Merge], _CODES[StartClock]
_DONE = _CODES[WorkerDone]
_TOKEN_LAST = {_CODES[kind] for kind in (StartClock, Drop, Cancel, Fence)}
_MERGED = len(Merged._fields) + 1  # numbers of one, its token being two


def packed(now: float, event: Event, commands: Sequence[Command]) -> list[Any]:
    """A row of a tape as one flat list of numbers, strings and tuples of numbers."""
    row: list[Any]
    if type(event) is DeltaReady:
        worker, clock, version, (term, grant), steps, samples, finite, norm = event
        row = [now, _DELTA, worker, clock, version, term, grant, steps, samples, finite, norm]
    else:
        row = [now, _CODES[type(event)], *event]
        if type(event) is WorkerDone:
            row += row.pop()
    for command in commands:
        if type(command) is StartClock:
            worker, clock, steps, version, pending, workers, (term, grant) = command
            row += (_START, worker, clock, steps, version, pending, workers, term, grant)
        elif type(command) is Merge:
            version, deltas, num_workers = command
            row += (_MERGE, version, num_workers, len(deltas))
            for worker, clock, base, staleness, lag, weight, (term, grant) in deltas:
                row += (worker, clock, base, staleness, lag, weight, term, grant)
        else:
            code = _CODES[type(command)]
            row.append(code)
            row += command
            if code in _TOKEN_LAST:
                row += row.pop()
    return row


def unpacked(row: Sequence[Any]) -> tuple[float, Event, list[Command]]:
    """The row that was packed."""
    rest = iter(row)
    now, code = next(rest), next(rest)
    if code == _DELTA:
        worker, clock, version, term, grant, *report = islice(rest, len(DeltaReady._fields) + 1)
        event: Event = DeltaReady(worker, clock, version, Token(term, grant), *report)
    elif code == _DONE:
        event = _with_token(WorkerDone, islice(rest, len(WorkerDone._fields) + 1))
    else:
        event = _plain(_KINDS[code], rest)
    return now, event, [_command(code, rest) for code in rest]


def _plain(kind: Any, rest: Iterator[Any]) -> Any:
    return kind(*islice(rest, len(kind._fields)))


def _command(code: int, rest: Iterator[Any]) -> Command:
    if code == _MERGE:
        version, num_workers, count = islice(rest, 3)
        deltas = tuple(_with_token(Merged, islice(rest, _MERGED)) for _ in range(count))
        return Merge(version, deltas, num_workers)
    kind = _KINDS[code]
    if code in _TOKEN_LAST:
        return _with_token(kind, islice(rest, len(kind._fields) + 1))
    return _plain(kind, rest)


def _with_token(kind: Any, numbers: Iterator[Any]) -> Any:
    *fields, term, grant = numbers
    return kind(*fields, Token(term, grant))


def as_json(message: Event | Command) -> tuple[Any, ...]:
    """An event or command for JSON: its name, then its fields in their order."""
    return (type(message).__name__, *message)


def from_json(row: Sequence[Any]) -> Any:
    """The event or command that a row of JSON holds.

    Raises:
        ValueError: if there is none of that name.
        TypeError: if it has other fields.
    """
    name, *values = row
    if name not in _NAMED:
        raise ValueError(f"there is no event or command {name!r}")
    return _from_fields(_NAMED[name], values)


def _from_fields(kind: Any, values: Sequence[Any]) -> Any:
    message = kind(*values)
    changed: dict[str, Any] = {}
    if "token" in kind._fields:
        changed["token"] = Token(*message.token)
    if kind is StartClock:
        changed["pending"] = tuple(message.pending)
    if kind is Merge:
        changed["deltas"] = tuple(_from_fields(Merged, delta) for delta in message.deltas)
    return message._replace(**changed) if changed else message
