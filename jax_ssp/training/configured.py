"""Transforms on the server as a config has them: their arguments are fields of a dataclass."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Annotated, Any

import optax
import tyro

from jax_ssp import checks
from jax_ssp.checks import instance


@dataclass(frozen=True)
class Configured(ABC):
    """A transform on the server and its arguments; see `configured`."""

    @abstractmethod
    def build(self) -> optax.GradientTransformation:
        """Make the transform."""


@functools.cache
def _configured_class(function: Callable[..., optax.GradientTransformation]) -> type[Configured]:
    hints = _hints(function)
    columns: list[Any] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind: Any = hints.get(name, Any)
        missing = parameter.default is inspect.Parameter.empty
        if re.search("GradientTransformation|ForwardRef", str(kind)):
            kind = Any  # given as another `Configured`, whose own fields are then shown; or unknown
        elif float in typing.get_args(kind) and re.search("Array|Callable", str(kind)):
            kind = _number(or_none=parameter.default is None)
        columns.append((name, kind) if missing else (name, kind, field(default=parameter.default)))
    # The command line shows this as the help of the transform's group of options.
    doc = (inspect.getdoc(function) or function.__name__).split("\n")[0]

    def given(self: Any) -> dict[str, Any]:
        return {column.name: getattr(self, column.name) for column in fields(self)}

    def build(self: Any) -> optax.GradientTransformation:
        return function(**{name: built(value) for name, value in given(self).items()})

    def reduced(self: Any) -> Any:  # pickle finds the function by its name, but not this class
        return _made, (function, given(self))

    namespace = {"build": build, "__reduce__": reduced, "__doc__": doc}
    made = make_dataclass(
        function.__name__, columns, bases=(Configured,), frozen=True, namespace=namespace
    )
    made.__module__ = function.__module__  # Python 3.12 and newer say that it is from here
    return made


def _made(
    function: Callable[..., optax.GradientTransformation], arguments: dict[str, Any]
) -> Configured:
    return _configured_class(function)(**arguments)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # as of optax.adamw, whose mask is of a type that its module does not know
        return inspect.get_annotations(function)


def _number(or_none: bool) -> Any:
    """The type of what is a number on the command line, whatever else a config may give for it.

    Optax has many that may be a schedule or an array too, which cannot be typed there.
    """

    def parsed(words: list[str]) -> float | None:
        return None if or_none and words == ["None"] else float(words[0])

    number = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{None}|FLOAT" if or_none else "FLOAT",
        instance_from_str=parsed,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[Any, number]


def configured_class(function: Any) -> type[Configured]:
    """The class whose fields are a function's arguments, if they can be fields."""
    must = "a function with named arguments, such as `optax.sgd`"
    if not callable(function):
        raise TypeError(f"`configured(function=...)` must be {must}, got {checks.shown(function)}.")
    try:
        return _configured_class(function)
    except Exception as error:
        raise TypeError(
            f"`configured(function=...)` must be {must}, got {checks.shown(function)}: {error}."
        ) from error


def configured(
    function: Callable[..., optax.GradientTransformation], **arguments: Any
) -> Configured:
    """A server transform that a config can name, print and override.

    Args:
        function: makes the transform; its parameters become fields, with their types and defaults.
        **arguments: values for some of them; for a transform within it, another `configured`.

    Returns:
        A frozen dataclass with those fields; `build()` calls the function.

    Raises:
        TypeError: if it is no such function, or has no such argument.

    Example:
        >>> from jax_ssp.mitigations import outer
        >>> configured(outer, optimizer=configured(optax.scale, step_size=-0.5)).optimizer
        scale(step_size=-0.5)
    """
    known = configured_class(function)
    names = [column.name for column in fields(known)]
    called = f"configured(function={checks.shown(function)}"
    for name in arguments:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            raise TypeError(
                f"`{called}, {name}=...)`: there is no such argument; "
                + (f"did you mean `{close[0]}`?" if close else f"it has {', '.join(names)}.")
            )
    for column in fields(known):
        if column.default is MISSING and column.name not in arguments:
            raise TypeError(f"`{called}, {column.name}=...)` is missing; it has no default.")
    return known(**arguments)


@dataclass(frozen=True)
class Chain(Configured):
    """Transforms one after the other. Made by `chained`."""

    parts: tuple[Any, ...] = ()
    """What each is made from."""

    def build(self) -> optax.GradientTransformation:
        return optax.chain(*map(built, self.parts))


def chained(*parts: Configured) -> Chain:
    """Server transforms one after the other, as `optax.chain` has them, for a config.

    Args:
        *parts: what `configured` gives.

    Raises:
        TypeError: if a part is something else.

    Example:
        >>> chained(configured(optax.clip, max_delta=1.0), configured(optax.scale, step_size=0.5))
        Chain(parts=(clip(max_delta=1.0), scale(step_size=0.5)))
    """
    for number, part in enumerate(parts):
        must = "what `ssp.configured(transform, ...)` gives"
        instance(f"chained(*parts)[{number}]", part, Configured, must)
    return Chain(parts)


def built(value: Any) -> Any:
    """The transform that this configures; anything else as it is."""
    return value.build() if isinstance(value, Configured) else value
