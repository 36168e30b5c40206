"""Arrays in memory: what a source of batches is given, and where a batch is put.

Programs on the CPU read NumPy arrays as they are where these begin at a multiple of 64 bytes, and
else copy them first. NumPy's own allocations seldom do, so batches are put into memory that does.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jax_ssp.checks import shown
from jax_ssp.trees import Tree

ALIGNMENT = 64  # bytes
_SMALL = 3 << 15  # bytes, whose copy costs no more than to find a place for them


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with anything in it, that programs on the CPU read without a copy if it is large.

    Example:
        >>> array = empty((100, 784), np.dtype("float32"))
        >>> array.shape, array.ctypes.data % ALIGNMENT
        ((100, 784), 0)
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _SMALL:
        return np.empty(shape, dtype)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.__array_interface__["data"][0] % ALIGNMENT  # at half of what `ctypes` costs
    return np.ndarray(shape, dtype, memory, first)


def copy_of(array: np.ndarray) -> np.ndarray:
    """A copy in such memory."""
    if array.nbytes < _SMALL:
        return array.copy()
    there = empty(array.shape, array.dtype)
    there[...] = array
    return there


def chosen_of(arrays: Tree, chosen: np.ndarray) -> Tree:
    """Examples of arrays, copied into such memory.

    Args:
        arrays: a tree, with the examples along their first axes.
        chosen: the numbers of those wanted.

    Example:
        >>> chosen_of({"x": np.arange(4)}, np.array([3, 1]))
        {'x': array([3, 1])}
    """

    def leaf(array: np.ndarray) -> np.ndarray:
        there = empty((len(chosen), *array.shape[1:]), array.dtype)
        # All are there, so nothing is clipped; but to raise, NumPy would put them elsewhere first.
        return array.take(chosen, axis=0, out=there, mode="clip")

    return jax.tree.map(leaf, arrays)


def as_arrays(kind: str, arrays: Tree) -> Tree:
    """Arrays in memory as NumPy's.

    Args:
        kind: the class that they are given to, for messages.
        arrays: a tree of them.

    Raises:
        TypeError: if one is no array of numbers, or a masked one.

    Example:
        >>> as_arrays("Epochs", {"x": np.arange(2)})
        {'x': array([0, 1])}
    """

    def array(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        try:
            found = np.asarray(leaf)
        except Exception as error:  # of lists of several lengths, say
            raise TypeError(f"{_named(kind, path)} must be an array, got {shown(leaf)}.") from error
        if isinstance(leaf, np.ma.MaskedArray):
            raise TypeError(
                f"{_named(kind, path)} is a masked array, and nothing here looks at its mask; give "
                "it with numbers in their place, `array.filled(...)`."
            )
        if found.dtype.kind in "OSUMm":
            raise TypeError(
                f"{_named(kind, path)} must be an array of numbers, got {shown(leaf)} of dtype "
                f"{found.dtype}."
            )
        return found

    try:
        jax.tree.structure(arrays)
    except Exception as error:  # of a dict whose keys have no order, say
        raise TypeError(
            f"`{kind}(arrays=...)` must be a tree of arrays, got {shown(arrays)}."
        ) from error
    return jax.tree_util.tree_map_with_path(array, arrays)


def _named(kind: str, path: tuple[Any, ...]) -> str:
    return f"`{kind}(arrays=...)`: arrays{jax.tree_util.keystr(path)}"


def num_examples(kind: str, arrays: Tree) -> int:
    """The length that all arrays have in common.

    Raises:
        ValueError: if there is none.

    Example:
        >>> num_examples("Epochs", {"x": np.arange(2)})
        2
    """
    leaves, _ = jax.tree.flatten_with_path(arrays)
    shapes = {f"arrays{jax.tree_util.keystr(path)}": np.shape(leaf) for path, leaf in leaves}
    if not shapes:
        raise ValueError(f"`{kind}(arrays=...)` must hold at least one array, got none.")
    for name, shape in shapes.items():
        if not shape:
            raise ValueError(
                f"`{kind}(arrays=...)` must hold arrays with the examples along their first axis, "
                f"but {name} is a scalar, {shown(arrays)}."
            )
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"`{kind}(arrays=...)` must hold arrays of one length, but {each}.")
    return next(iter(lengths.values()))
