"""What an argument may be, and the one sentence that says so where it is not.

Each check takes the field as its user wrote it, such as "SSP(bound=...)", and the value; it gives
the value back as Python has it (an int, a float, a bool, a str, a Path), or raises with the field,
the value and what would do. Scalars of NumPy and JAX count as numbers, and `True` as none. It
stands on the standard library alone: the controller and the policies use it, and the rest does too.

    >>> integer("SSP(bound=...)", 3, least=0)
    3
    >>> integer("SSP(bound=...)", -1, least=0)
    Traceback (most recent call last):
    ValueError: `SSP(bound=...)` must be non-negative, got -1.
    >>> flag("Ringmaster(stops=...)", "False")
    Traceback (most recent call last):
    TypeError: `Ringmaster(stops=...)` must be True or False, got 'False'.
"""

from __future__ import annotations

import inspect
import math
import operator
import os
import reprlib
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar, cast

LARGEST = 2**63 - 1
"""The largest integer that an argument may be, where nothing else says so."""
INT32 = 2**31 - 1
"""The largest integer of a program on a device."""
LEAST, MOST = 1e-30, 1e30
"""The least and the largest number of a program on a device: far from where float32 ends."""
MOST_STEPS = 1_000_000
"""The most local steps of a clock: their batches are on the device at once."""
MOST_WORKERS = 1_000_000
"""The most workers of a run."""

Kind = TypeVar("Kind")


def integer(
    field: str,
    value: Any,
    *,
    least: int | None = None,
    most: int = LARGEST,
    must: str = "an integer",
) -> int:
    """An integer in a range.

    Args:
        field: what the message calls it.
        value: what was given; a scalar array of integers will do, a bool or a float will not.
        least, most: the ends of the range, included.
        must: what it has to be, where the caller takes more than integers.

    Raises:
        TypeError: if it is not an integer.
        ValueError: if it is out of range.
    """
    if not _is_integer(value):
        raise TypeError(f"`{field}` must be {must}, got {shown(value)}.")
    try:
        whole = operator.index(cast("SupportsIndex", value))
    except Exception as error:  # a tracer, or an object that only looks like an integer
        raise TypeError(f"`{field}` must be {must}, got {shown(value)}.") from error
    if least is not None and whole < least:
        low = "non-negative" if least == 0 else f"at least {least}"
        raise ValueError(f"`{field}` must be {low}, got {shown(whole)}.")
    if whole > most:
        raise ValueError(f"`{field}` must be at most {most}, got {shown(whole)}.")
    if whole < -LARGEST:
        raise ValueError(f"`{field}` must be at least {-LARGEST}, got {shown(whole)}.")
    return whole


def seed(field: str, value: Any) -> int:
    """An integer from 0 to 2**32 - 1, which every generator of random numbers takes."""
    return integer(field, value, least=0, most=2**32 - 1)


def number(
    field: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> float:
    """A finite number in a range. An int that a float can hold stays one; the rest become floats.

    Args:
        field: what the message calls it.
        value: what was given; a scalar array of real numbers will do, a bool will not.
        least, most: the ends of the range, included.
        above: the lower end, left out.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is not finite, or out of range.
    """
    whole = _is_integer(value)
    if isinstance(value, bool) or not (whole or _is_real(value)):
        raise TypeError(f"`{field}` must be a number, got {shown(value)}.")
    try:
        found = operator.index(cast("SupportsIndex", value)) if whole else float(value)
        if abs(found) > INT32:
            found = float(found)
    except OverflowError:
        found = math.inf
    except Exception as error:
        raise TypeError(f"`{field}` must be a number, got {shown(value)}.") from error
    if not math.isfinite(found):
        raise ValueError(f"`{field}` must be finite, got {shown(value)}.")
    out = ""
    if above is not None and found <= above:
        out = "positive" if above == 0 else f"above {above:g}"
    elif least is not None and found < least:
        out = "non-negative" if least == 0 else f"at least {least:g}"
    elif most is not None and found > most:
        out = f"at most {most:g}"
    if out:
        raise ValueError(f"`{field}` must be {out}, got {shown(value)}.")
    return found


def share(field: str, value: Any, *, zero: bool = True, one: bool = True) -> float:
    """A number between 0 and 1.

    Args:
        field: what the message calls it.
        value: what was given.
        zero, one: whether it may be that.

    Raises:
        TypeError: if it is not a number.
        ValueError: if it is out of range.
    """
    try:
        found = number(field, value)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1 or (found == 0 and not zero) or (found == 1 and not one):
        low = "at least 0" if zero else "above 0"
        high = "at most 1" if one else "less than 1"
        must = "between 0 and 1" if zero and one else f"{low} and {high}"
        raise ValueError(f"`{field}` must be {must}, got {shown(value)}.")
    return found


def flag(field: str, value: Any) -> bool:
    """True or False; neither 1 nor "no" is one.

    Raises:
        TypeError: if it is something else.
    """
    if isinstance(value, bool):
        return value
    if _dtype_name(value) == "bool":
        try:
            return bool(value)
        except Exception:  # a tracer
            pass
    raise TypeError(f"`{field}` must be True or False, got {shown(value)}.")


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
        hint = "; call it: that is the class" if _is_class(value, kind) else ""
        raise TypeError(f"`{field}` must be {must}, got {shown(value)}{hint}.")
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
    listed = isinstance(value, Sequence) or _shape(value)
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


def shown(value: Any) -> str:
    """A value as a message can hold it: short, whatever it is, and never an error of its own."""
    try:
        return _SHORT.repr(value)
    except Exception:
        return f"<{type(value).__name__} object>"


class _Short(reprlib.Repr):
    """Short texts: an array by its type and shape, long things cut."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 3

    def repr1(self, x: Any, level: int) -> str:
        if type(x) is not type and (shape := _shape(x)) is not None:
            dtype = _dtype_name(x)
            if shape or not dtype:
                return f"an array of {dtype or 'numbers'}{list(shape)}"
            return f"{dtype}({self._plain(x)})"
        return super().repr1(x, level)

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 128:
            return f"{'-' if x < 0 else ''}2**{x.bit_length() - 1} or more"
        return repr(x)

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            said = repr(x)
        except Exception:
            said = f"<{type(x).__name__} object>"
        if isinstance(x, type) or callable(x):
            said = getattr(x, "__qualname__", said)
        return self._cut(said)

    def _plain(self, x: Any) -> str:
        try:
            return self._cut(str(x.item()))
        except Exception:  # a tracer
            return self._cut(str(x))

    def _cut(self, said: str) -> str:
        said = " ".join(said.split())
        return said if len(said) <= self.maxother else f"{said[: self.maxother - 3]}..."


_SHORT = _Short()


def _shape(value: Any) -> tuple[Any, ...] | None:
    """The shape of an array, of whatever library; None of anything else."""
    try:
        shape = value.shape if hasattr(value, "dtype") else None
    except Exception:
        return None
    return cast("tuple[Any, ...]", shape) if isinstance(shape, tuple) else None


def _dtype_name(value: Any) -> str:
    """The name of a scalar array's dtype; empty for anything else."""
    if _shape(value) is None:
        return ""
    name = getattr(value.dtype, "name", "")
    return name if isinstance(name, str) else ""


def _is_integer(value: Any) -> bool:
    shape = _shape(value)
    if shape is not None:
        return shape == () and _dtype_name(value).startswith(("int", "uint"))
    return isinstance(value, SupportsIndex) and not isinstance(value, bool | type)


def _is_real(value: Any) -> bool:
    shape = _shape(value)
    if shape is not None:
        return shape == () and _dtype_name(value).startswith(("float", "bfloat"))
    return isinstance(value, Real)


def _is_class(value: Any, kind: type[Any]) -> bool:
    return isinstance(value, type) and issubclass(value, kind)
