"""Trees of arrays as bytes, for another process that knows what they are like."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def to_bytes(tree: Any) -> bytes:
    """The numbers of all leaves, one after the other.

    Args:
        tree: of arrays in any memory; they are waited for.
    """
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))


def from_bytes(data: bytes, like: Any) -> Any:
    """The tree that was given to `to_bytes`, with arrays of NumPy that cannot be written.

    Args:
        data: the bytes.
        like: a tree of its structure, with leaves of its shapes and dtypes.

    Raises:
        ValueError: if there are more bytes, or fewer.

    Example:
        >>> tree = {"w": np.arange(3.0), "n": np.int8(7)}
        >>> from_bytes(to_bytes(tree), like=tree)
        {'n': array(7, dtype=int8), 'w': array([0., 1., 2.])}
    """
    leaves, structure = jax.tree.flatten(like)
    arrays: list[Any] = []
    begin = 0
    for leaf in leaves:
        count = int(np.prod(leaf.shape, dtype=np.int64))
        if begin + count * leaf.dtype.itemsize > len(data):
            raise ValueError(f"{len(data)} bytes are too few for a tree like {like}.")
        arrays.append(np.frombuffer(data, leaf.dtype, count, begin).reshape(leaf.shape))
        begin += count * leaf.dtype.itemsize
    if begin != len(data):
        raise ValueError(f"{len(data)} bytes are too many for a tree like {like}.")
    return structure.unflatten(arrays)
