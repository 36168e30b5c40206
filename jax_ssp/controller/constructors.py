"""Constructors of messages that cost half of what calling their class does.

They are generated from a class's fields, so that a field that is added needs no other edit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

_Given = ParamSpec("_Given")
_Message = TypeVar("_Message")


def constructor(kind: Callable[_Given, _Message]) -> Callable[_Given, _Message]:
    """A function that is called like a `NamedTuple`, and makes the same.

    Args:
        kind: a class made with `typing.NamedTuple`.

    Example:
        >>> from typing import NamedTuple
        >>> class Point(NamedTuple):
        ...     x: int
        ...     y: int = 0
        >>> new_point = constructor(Point)
        >>> new_point(1), new_point(x=1, y=2)
        (Point(x=1, y=0), Point(x=1, y=2))
    """
    fields: tuple[str, ...] = getattr(kind, "_fields")  # noqa: B009
    defaults: dict[str, Any] = getattr(kind, "_field_defaults")  # noqa: B009
    given = ", ".join(f"{name}=_{name}" if name in defaults else name for name in fields)
    source = f"def new({given}):\n    return _new(_kind, ({', '.join(fields)},))\n"
    names = {f"_{name}": value for name, value in defaults.items()}
    return generated("new", source, {**names, "_new": NEW, "_kind": kind})


NEW: Any = cast("Any", tuple).__new__  # at half the cost of a named tuple's own


def generated(name: str, source: str, names: dict[str, Any]) -> Any:
    """The function of that name that a piece of source defines.

    Args:
        name: of the function.
        source: made by this package, of names of fields.
        names: what the source uses.
    """
    exec(source, names)
    return names[name]
