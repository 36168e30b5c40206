"""What a value is, of whatever library, and how a message shows it.

Scalars of NumPy and JAX count as numbers. It stands on the standard library alone.
"""

from __future__ import annotations

import reprlib
from numbers import Real
from typing import Any, SupportsIndex, cast


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
        if type(x) is not type and (shape := shape_of(x)) is not None:
            dtype = dtype_name(x)
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


def shape_of(value: Any) -> tuple[Any, ...] | None:
    """The shape of an array, of whatever library; None of anything else."""
    try:
        shape = value.shape if hasattr(value, "dtype") else None
    except Exception:
        return None
    return cast("tuple[Any, ...]", shape) if isinstance(shape, tuple) else None


def dtype_name(value: Any) -> str:
    """The name of a scalar array's dtype; empty for anything else."""
    if shape_of(value) is None:
        return ""
    name = getattr(value.dtype, "name", "")
    return name if isinstance(name, str) else ""


def is_integer(value: Any) -> bool:
    """Whether it is an integer, or an array of one; True is none."""
    shape = shape_of(value)
    if shape is not None:
        return shape == () and dtype_name(value).startswith(("int", "uint"))
    return isinstance(value, SupportsIndex) and not isinstance(value, bool | type)


def is_real(value: Any) -> bool:
    """Whether it is a real number, or an array of one, and no integer's."""
    shape = shape_of(value)
    if shape is not None:
        return shape == () and dtype_name(value).startswith(("float", "bfloat"))
    return isinstance(value, Real)
