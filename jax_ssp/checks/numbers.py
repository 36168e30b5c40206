"""Numbers: what an integer, a real number, a share and a flag may be, and their limits."""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsIndex, cast

from jax_ssp.checks.values import dtype_name, is_integer, is_real, shown

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
    if not is_integer(value):
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
    whole = is_integer(value)
    if isinstance(value, bool) or not (whole or is_real(value)):
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
    if dtype_name(value) == "bool":
        try:
            return bool(value)
        except Exception:  # a tracer
            pass
    raise TypeError(f"`{field}` must be True or False, got {shown(value)}.")
