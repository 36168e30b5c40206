"""Everything that a process knows, as plain values that can be compared.

Whatever attribute an object has is in it, so one that is added later is too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from functools import cache
from typing import Any

from jax_ssp.controller.events import Token

_PLAIN = (int, str, float, bool, type(None), bytes)
_NOT_STATE = frozenset({"term", "_first"})  # of a term, which a resume changes on purpose


def plain(what: Any) -> Any:
    """An object as tuples, numbers and texts; of tokens the grants alone, which no resume changes.

    Example:
        >>> class Counter:
        ...     def __init__(self):
        ...         self.count, self.of = 3, {"a": Token(0, 1)}
        >>> plain(Counter())
        ('Counter', ('count', 3), ('of', (('a', ('grant', 1)),)))
    """
    kind = type(what)
    if kind in _PLAIN:
        return what
    if kind is Token:
        return "grant", what.grant
    if isinstance(what, Mapping):
        return tuple([(plain(key), plain(value)) for key, value in what.items()])
    if isinstance(what, AbstractSet):
        return tuple(sorted(map(plain, what), key=repr))
    if isinstance(what, Enum):
        return what.name
    if hasattr(kind, "__iter__"):
        return tuple(map(plain, what))
    if isinstance(what, Callable):
        return getattr(what, "__qualname__", kind.__name__)
    return kind.__name__, *[
        (name, plain(getattr(what, name)))
        for name in (*_slots(kind), *getattr(what, "__dict__", ()))
        if name not in _NOT_STATE and hasattr(what, name)
    ]


@cache
def _slots(kind: type[Any]) -> tuple[str, ...]:
    return tuple([name for each in kind.__mro__ for name in getattr(each, "__slots__", ())])


def difference(one: Any, other: Any, where: str = "") -> str:
    """Where two such values differ first, in words; empty if they do not.

    Example:
        >>> difference((("a", 1), ("b", 2)), (("a", 1), ("b", 3)))
        '.b: 2 and 3'
    """
    if one == other:
        return ""
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            if mine == theirs:
                continue
            named = isinstance(mine, tuple) and len(mine) == 2 and type(mine[0]) is str
            if named and isinstance(theirs, tuple) and theirs[:1] == mine[:1]:
                return difference(mine[1], theirs[1], f"{where}.{mine[0]}")
            return difference(mine, theirs, f"{where}[{index}]")
    return f"{where}: {one!r} and {other!r}"
