"""Objects: functions, instances, lists; and what applies a check to a field."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from jax_ssp.checks.values import shape_of, shown

Kind = TypeVar("Kind")


def function(field: str, value: Any, signature: str) -> Callable[..., Any]:
    """Something that can be called with so many arguments.

    Args:
        field: what the message calls it.
        value: what was given.
        signature: how it is called, such as "(worker, clock) -> seconds"; "(...)" is anyhow.

    Raises:
        TypeError: if it cannot be called, or not so.
    """
    must = f"`{field}` must be a function {signature}"
    if not callable(value):
        raise TypeError(f"{must}, got {shown(value)}.")
    arguments = signature.partition("(")[2].partition(")")[0]
    if arguments == "...":
        return value
    names = [name for name in arguments.split(",") if name.strip()]
    try:
        of = inspect.signature(value)
    except Exception as error:  # some callables written in C do not say
        if len(names) > 1:
            raise TypeError(f"{must}, got {shown(value)}, whose arguments are unknown.") from error
        return value
    try:
        of.bind(*names)
    except TypeError as error:
        count = "one argument" if len(names) == 1 else f"{len(names)} arguments"
        raise TypeError(
            f"{must}, got {shown(value)}, which cannot be called with {count}: {error}."
        ) from error
    return value


def instance(field: str, value: Any, kind: type[Kind], must: str) -> Kind:
    """An object of a class.

    Args:
        field: what the message calls it.
        value: what was given.
        kind: the class.
        must: what it has to be, with an example: "a Policy such as `ssp.SSP(bound=3)`".

    Raises:
        TypeError: if it is of another class.
    """
    if not isinstance(value, kind):
        raise TypeError(f"`{field}` must be {must}, got {shown(value)}{_not_called(value, kind)}.")
    return value


def several(field: str, value: Any, must: str) -> tuple[Any, ...]:
    """A list or a tuple, or another sequence or array, but no string and no dict.

    Args:
        field: what the message calls it.
        value: what was given.
        must: what it has to be: "a list of `ssp.Observer`s".

    Raises:
        TypeError: if it is something else.
    """
    listed = isinstance(value, Sequence) or shape_of(value)
    try:
        if listed and not isinstance(value, str | bytes | bytearray | memoryview):
            return tuple(cast("Sequence[Any]", value))
    except Exception:  # a tracer of an array
        pass
    raise TypeError(f"`{field}` must be {must}, got {shown(value)}.")


def optional(field: str, value: Any, rule: Callable[..., Any], *others: Any, **limits: Any) -> Any:
    """None, or what another check of this module takes."""
    return None if value is None else rule(field, value, *others, **limits)


def put(config: Any, field: str, rule: Callable[..., Any], *arguments: Any, **limits: Any) -> None:
    """Check a field of a frozen dataclass, and leave in it what the check gives back.

    Args:
        config: the dataclass, in its `__post_init__`.
        field: of it.
        rule: one of the checks of this module.
        arguments, limits: for that.

    Example:
        >>> from jax_ssp.policies import SSP
        >>> SSP(bound="3")
        Traceback (most recent call last):
        TypeError: `SSP(bound=...)` must be an integer, got '3'.
    """
    name = f"{type(config).__name__}({field}=...)"
    value = rule(name, getattr(config, field), *arguments, **limits)
    object.__setattr__(config, field, value)


def _not_called(value: Any, kind: type[Any]) -> str:
    """The remedy, where what makes one was given in its place."""
    if isinstance(value, type) and issubclass(value, kind):
        return "; call it: that is the class"
    return "; call it, if it makes one" if inspect.isroutine(value) else ""
