"""Events and commands as plain rows: packed flat for memory, and as JSON for files.

Both follow from the fields of the messages and their annotations, in their order: a field that is
added to a message is packed, written and read with no edit here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from typing import Any, get_args, get_origin, get_type_hints

from jax_ssp.controller.commands import COMMANDS, Command, Merge, StartClock
from jax_ssp.controller.constructors import NEW, generated
from jax_ssp.controller.events import EVENTS, DeltaReady, Event, Token

_KINDS: tuple[type[Any], ...] = (*EVENTS, *COMMANDS)
_NAMED = {kind.__name__: kind for kind in _KINDS}


def unpacked(row: Sequence[Any]) -> tuple[float, Event, list[Command]]:
    """The row that was packed."""
    rest = iter(row)
    now: float = next(rest)
    first: int = next(rest)
    event: Event = _UNPACKERS[first](rest)
    return now, event, [_UNPACKERS[code](rest) for code in rest]


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
    changed = {name: made(getattr(message, name)) for name, made in _from_lists(kind)}
    return message._replace(**changed) if changed else message


@cache
def _from_lists(kind: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """What is a list in JSON: names of fields, and what makes the field of the list."""
    made: list[tuple[str, Callable[[Any], Any]]] = []
    for name, hint in get_type_hints(kind).items():
        each = _each(hint)
        if hint is Token:
            made.append((name, lambda values: Token(*values)))
        elif each is not None:
            made.append((name, partial(_several, each)))
        elif get_origin(hint) is tuple:
            made.append((name, tuple))
    return made


def _several(kind: Any, items: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_from_fields(kind, item) for item in items)


def _each(hint: Any) -> Any:
    """The kind of the messages that a field holds several of; None if it holds none."""
    each = get_args(hint)[0] if get_origin(hint) is tuple else None
    return each if hasattr(each, "_fields") else None


# The functions that pack and unpack are generated: they run for every event.


def _packer() -> Callable[[float, Event, Sequence[Command]], list[Any]]:
    """The function `packed`, as one without a call in it: these would cost more than the rest."""
    names: dict[str, Any] = {f"_{kind.__name__}": kind for kind in _KINDS}
    lines = f"    _kind = type(_event)\n{_packing(EVENTS, '_event', '    ', '_row = [_now, {}]')}"
    lines += "    for _command in _commands:\n        _kind = type(_command)\n"
    lines += f"{_packing(COMMANDS, '_command', ' ' * 8, '_row += ({},)')}    return _row\n"
    return generated("pack", f"def pack(_now, _event, _commands):\n{lines}", names)


def _packing(kinds: Sequence[type[Any]], message: str, indent: str, put: str) -> str:
    """The lines that pack a message of one of these kinds, whichever it is."""
    lines, test = "", "if"
    for kind in sorted(kinds, key=lambda kind: kind not in _FREQUENT):
        lines += f"{indent}{test} _kind is _{kind.__name__}:\n"
        lines += _packing_one(kind, message, f"{indent}    ", put, [str(_KINDS.index(kind))])
        test = "elif"
    return f"{lines}{indent}else:\n{indent}    raise KeyError(_kind)\n"


def _packing_one(kind: type[Any], message: str, indent: str, put: str, flat: list[str]) -> str:
    """The lines for one kind, which put its fields behind what is there of it."""
    hints = get_type_hints(kind)
    lines, more = f"{indent}{', '.join(kind._fields)}, = {message}\n", ""
    for name in kind._fields:
        each = _each(hints[name])
        if hints[name] is Token:
            lines += f"{indent}_term, _grant = {name}\n"
            flat.append("(_term, _grant) if _term else _grant")
        elif each is not None:  # how many there are, and behind all other fields the items
            flat.append(f"len({name})")
            more += f"{indent}for {message} in {name}:\n"
            more += _packing_one(each, message, f"{indent}    ", put, [])
        else:
            flat.append(name)
    return f"{lines}{indent}{put.format(', '.join(flat))}\n{more}"


def _unpacker(kind: Any) -> Callable[[Iterator[Any]], Any]:
    """A function that takes the fields of a message off an iterator, and makes it."""
    names: dict[str, Any] = {"_islice": islice, "_new": NEW, "_kind": kind, "_Token": Token}
    lines = f"    {', '.join(kind._fields)}, = _islice(rest, {len(kind._fields)})\n"
    for name, hint in get_type_hints(kind).items():
        if hint is Token:
            lines += f"    token = (0, {name}) if type({name}) is int else {name}\n"
            lines += f"    {name} = _new(_Token, token)\n"
        elif (each := _each(hint)) is not None:
            names[f"_{name}"] = _unpacker(each)
            lines += f"    {name} = tuple([_{name}(rest) for _ in range({name})])\n"
    lines += f"    return _new(_kind, ({', '.join(kind._fields)},))\n"
    return generated("unpack", f"def unpack(rest):\n{lines}", names)


_FREQUENT = (DeltaReady, StartClock, Merge)  # so asked for first

packed = _packer()
"""A row of a tape, `(now, event, commands)`, as one flat list of numbers, strings and tuples of
numbers. A token is its grant in term 0, else both."""

_UNPACKERS = [_unpacker(kind) for kind in _KINDS]
