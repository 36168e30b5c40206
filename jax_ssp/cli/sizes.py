"""`--size smoke`: a config of several sizes, of which its `get_config` says which there are."""

from __future__ import annotations

import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax_ssp.cli.usage import UsageError

OPTION = "--size"


class Sized(NamedTuple):
    """A `get_config`, or `get_sweep`, at the size that the command line asks for.

    Attributes:
        get: the function, to be called without arguments.
        words: of the command line, those that ask for the size.
        rest: the others.
        about: what is to be said of sizes in the config's help; empty where it has none.
    """

    get: Any
    words: list[str]
    rest: list[str]
    about: str = ""


def sized(get: Any, words: Sequence[str]) -> Sized:
    """Take `--size` from the words, where a config has sizes.

    It has where its function takes one: `def get_config(size: Literal["smoke", "laptop"] =
    "laptop")`.

    Raises:
        UsageError: if there is no such size.

    Example:
        >>> def get_config(size: typing.Literal["smoke", "laptop"] = "laptop"):
        ...     return size
        >>> small = sized(get_config, ["--seed", "1", "--size", "smoke"])
        >>> small.get(), small.words, small.rest
        ('smoke', ['--size', 'smoke'], ['--seed', '1'])
    """
    names = _names(get)
    if not names:
        return Sized(get, [], list(words))
    rest, values = _without(words)
    default = inspect.signature(get).parameters["size"].default
    about = f"{OPTION} {'|'.join(names)} ({default}) says how large it is."
    if values is None:
        return Sized(get, [], rest, about)
    if len(values) != 1:
        got = " ".join(values) or "nothing"
        raise UsageError(f"{OPTION} takes one of {', '.join(names)}, got {got}")
    if values[0] not in names:
        near = difflib.get_close_matches(values[0], names, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{OPTION} must be one of {', '.join(names)}, got {values[0]!r}{hint}")
    return Sized(functools.partial(get, size=values[0]), [OPTION, values[0]], rest, about)


def _without(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The words without `--size` and what follows it; and that, None where there is no `--size`."""
    rest: list[str] = []
    values: list[str] | None = None
    within = False
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == OPTION:
            values = [*(values or []), *([value] if equals else [])]
            within = not equals
        elif within and values is not None and not word.startswith("-"):
            values.append(word)
        else:
            within = False
            rest.append(word)
    return rest, values


def _names(get: Callable[..., Any]) -> tuple[str, ...]:
    """The sizes that a function takes; none if it takes no `size` of certain names."""
    try:
        takes = "size" in inspect.signature(get).parameters
        hint = typing.get_type_hints(get).get("size") if takes else None
    except (TypeError, ValueError, NameError):
        return ()
    names = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return tuple(name for name in names if isinstance(name, str))
