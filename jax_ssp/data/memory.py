"""Arrays in memory with examples along their first axis: what a source of batches is given."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jax_ssp.checks import shown
from jax_ssp.trees import Tree


def as_arrays(kind: str, arrays: Tree) -> Tree:
    """Arrays in memory as NumPy's.

    Args:
        kind: the class that they are given to, for messages.
        arrays: a tree of them.

    Raises:
        TypeError: if one is no array of numbers.

    Example:
        >>> as_arrays("Epochs", {"x": np.arange(2)})
        {'x': array([0, 1])}
    """

    def array(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        try:
            found = np.asarray(leaf)
        except Exception as error:  # of lists of several lengths, say
            raise TypeError(f"{_named(kind, path)} must be an array, got {shown(leaf)}.") from error
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
