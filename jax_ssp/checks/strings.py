"""Strings: a word of a few, a line of text, a path."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from jax_ssp.checks.values import shown


def choice(field: str, value: Any, choices: Iterable[str], *, otherwise: str = "") -> str:
    """One of a few words.

    Args:
        field: what the message calls it.
        value: what was given.
        choices: the words.
        otherwise: what else the caller takes, for the message: "or a finite number".

    Raises:
        TypeError: if it is not a string.
        ValueError: if it is another one.
    """
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return str(value)
    names = [f'"{each}"' for each in choices]
    if otherwise:
        must = f"{', '.join(names)} {otherwise}"
    else:
        must = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    kind = ValueError if isinstance(value, str) or otherwise else TypeError
    raise kind(f"`{field}` must be {must}, got {shown(value)}.")


def text(field: str, value: Any) -> str:
    """A string that can be printed on one line, and is not blank.

    Raises:
        TypeError: if it is not a string.
        ValueError: if it is blank, or holds what cannot be printed.
    """
    if not isinstance(value, str):
        raise TypeError(f"`{field}` must be a string, got {shown(value)}.")
    if not value.strip() or not value.isprintable():
        raise ValueError(f"`{field}` must be one line of text, got {shown(value)}.")
    return str(value)


def path(field: str, value: Any) -> Path:
    """The path of a file or a folder.

    Raises:
        TypeError: if it is neither a string nor a path.
        ValueError: if no file can have that name.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"`{field}` must be a path, got {shown(value)}.")
    try:
        name = os.fspath(cast("str | os.PathLike[str]", value))
        if "\0" in os.fsdecode(os.fsencode(name)):
            raise ValueError("a zero byte")
    except ValueError as error:
        raise ValueError(f"`{field}` must be a path, got {shown(value)}.") from error
    except Exception as error:
        raise TypeError(f"`{field}` must be a path, got {shown(value)}.") from error
    if not name:
        raise ValueError(f"`{field}` must be a path, got ''.")
    return Path(os.fsdecode(name))
