"""What the fields of events and commands may hold: their types and ranges, from their annotations.

What is read from a file, or made by hand, is looked at field by field before it is believed: no
list for a worker, no boolean for a count, no time that never comes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast, get_args, get_origin, get_type_hints

from jax_ssp.controller.commands import COMMANDS
from jax_ssp.controller.events import EVENTS
from jax_ssp.records import NUMBER, is_number, short

_LARGEST = 2**63  # what a count is below

_Holds = Callable[[Any], bool]
_EVENTS, _COMMANDS = frozenset(EVENTS), frozenset(COMMANDS)


def check_event(event: Any, signed: bool = False) -> None:
    """Raise ValueError, naming the field, unless this is an event that can be.

    Args:
        event: what may be one.
        signed: whether counts may be below zero, for whoever judges them better.
    """
    if type(event) not in _EVENTS:
        raise ValueError(f"{short(event)} is not an event")
    _check(event, signed)


def check_command(command: Any, signed: bool = False) -> None:
    """The same for a command."""
    if type(command) not in _COMMANDS:
        raise ValueError(f"{short(command)} is not a command")
    _check(command, signed)


def _check(message: Any, signed: bool) -> None:
    kind = cast("type[Any]", type(message))
    if _test_of(kind, signed)(message):
        return
    for value, (name, says, holds) in zip(message, _fields_of(kind, signed), strict=True):
        if not holds(value):
            where = f"{kind.__name__}({name}=...)"
            raise ValueError(f"`{where}` must be {says}, got {short(value)}")


@cache
def _test_of(kind: type[Any], signed: bool) -> _Holds:
    """Whether all fields of a message are right: their types at once, then what is left to see."""
    hints = get_type_hints(kind)
    types = tuple(get_origin(hints[name]) or hints[name] for name in kind._fields)
    tests = [holds for _, _, holds in _fields_of(kind, signed)]
    plain = (str, bool, int) if signed else (str, bool)  # where the type is all
    left = [(at, holds) for at, holds in enumerate(tests) if types[at] not in plain]

    def test(message: Any) -> bool:
        if tuple(map(type, message)) == types:
            return all(holds(message[at]) for at, holds in left)
        return all(holds(value) for holds, value in zip(tests, message, strict=True))

    return test


@cache
def _fields_of(kind: type[Any], signed: bool) -> tuple[tuple[str, str, _Holds], ...]:
    """Of each field: its name, what it must be in words, and as a test."""
    hints = get_type_hints(kind)
    return tuple((name, *_rule(name, hints[name], signed)) for name in kind._fields)


def _rule(name: str, hint: Any, signed: bool) -> tuple[str, _Holds]:
    if signed and hint is int:
        return "an integer", lambda value: type(value) is int
    if name in _SPECIAL:
        return _SPECIAL[name]
    if hint in _PLAIN:
        return _PLAIN[hint]
    if get_origin(hint) is tuple:
        each = get_args(hint)[0]
        says, holds = _rule(name, each, signed)
        return f"a tuple, each {says}", _all_of(holds)
    if get_args(hint):  # a time, or None
        says, holds = _rule(name, get_args(hint)[0], signed)
        return f"{says}, or None", lambda value: value is None or holds(value)
    return f"a {hint.__name__} of numbers in their ranges", _of_fields(hint, signed)


def _all_of(holds: _Holds) -> _Holds:
    return lambda value: type(value) is tuple and all(map(holds, cast("tuple[Any, ...]", value)))


def _of_fields(kind: type[Any], signed: bool) -> _Holds:
    test = _test_of(kind, signed)
    return lambda value: type(value) is kind and test(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _is_exchange(value: Any) -> bool:
    spent: tuple[Any, ...] = cast("tuple[Any, ...]", value) if type(value) is tuple else (None,)
    return len(spent) in (0, 3) and all(is_number(each) and each >= 0 for each in spent)


def _is_norm(value: Any) -> bool:
    return type(value) is float or is_number(value)  # of a delta that diverged it is not finite


_PLAIN: dict[Any, tuple[str, _Holds]] = {
    int: ("a count", _is_count),
    float: ("a finite number of seconds", is_number),
    str: ("a text", lambda value: type(value) is str),
    bool: ("a boolean", lambda value: type(value) is bool),
}
_END: tuple[str, _Holds] = (
    "a count of at least 1, or None",
    lambda value: value is None or (_is_count(value) and value > 0),
)
_SPECIAL: dict[str, tuple[str, _Holds]] = {
    "norm": ("a number", _is_norm),
    "weight": (NUMBER.says, is_number),
    "exchange": ("nothing, or three numbers of seconds, at least 0", _is_exchange),
    **dict.fromkeys(("num_clocks", "max_updates", "max_steps", "max_samples"), _END),
}
