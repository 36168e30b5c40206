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
_TOKEN_LAST = {_CODES[kind] for kind in (StartClock, Drop, Cancel, Fence)}
_TOKEN_AT = {
    kind: kind._fields.index("token") for kind in (*_KINDS, Merged) if "token" in kind._fields
}


def packed(now: float, event: Event, commands: Sequence[Command]) -> list[Any]:
    """A row of a tape as one flat list of numbers, strings and tuples of numbers.

    A token is its grant in term 0, else both.
    """
    row: list[Any]
    if type(event) is DeltaReady:
        worker, clock, version, (term, grant), steps, samples, finite, norm = event
        token = grant if not term else (term, grant)
        row = [now, _DELTA, worker, clock, version, token, steps, samples, finite, norm]
    else:
        row = [now, _CODES[type(event)], *event]
        if type(event) is WorkerDone:
            row[-1] = tuple(event.token)
    for command in commands:
        kind = type(command)
        if kind is StartClock:
            row.append(_START)
            row += command
            term, grant = row[-1]
            row[-1] = grant if not term else (term, grant)
        elif type(command) is Merge:
            version, deltas, num_workers = command
            row += (_MERGE, version, num_workers, len(deltas))
            for delta in deltas:
                row += delta
                term, grant = row[-1]
                row[-1] = grant if not term else (term, grant)
        else:
            code = _CODES[kind]
            row.append(code)
            row += command
            if code in _TOKEN_LAST:
                row[-1] = tuple(row[-1])
    return row


def unpacked(row: Sequence[Any]) -> tuple[float, Event, list[Command]]:
    """The row that was packed."""
    rest = iter(row)
    now, code = next(rest), next(rest)
    event = _message(code, rest)
    return now, event, [_message(code, rest) for code in rest]


def _message(code: int, rest: Iterator[Any]) -> Any:
    if code == _MERGE:
        version, num_workers, count = islice(rest, 3)
        return Merge(version, tuple(_plain(Merged, rest) for _ in range(count)), num_workers)
    return _plain(_KINDS[code], rest)


def _plain(kind: Any, rest: Iterator[Any]) -> Any:
    values = list(islice(rest, len(kind._fields)))
    at = _TOKEN_AT.get(kind)
    if at is not None:
        token = values[at]
        values[at] = Token(0, token) if type(token) is int else Token(*token)
    return kind(*values)


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
