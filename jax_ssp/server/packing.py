"""A tree of arrays as one flat buffer of bytes, for whatever carries bytes; nothing is pickled.

The buffer begins with what the arrays are, so that a receiver sees whether they are what it expects
before it looks at any of them. Then they follow in the order of the tree, each at a multiple of 64
bytes, where programs on the CPU can use them without a copy.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np

from jax_ssp.data.memory import ALIGNMENT
from jax_ssp.trees import Tree, check_arrays, shapes_of


def pack(tree: Tree) -> bytearray:
    """A tree's arrays in one buffer.

    Args:
        tree: arrays of numbers, of JAX or NumPy, which are waited for. PRNG keys are none.

    Raises:
        TypeError: if a leaf is no array with values.

    Example:
        >>> tree = {"w": np.arange(3, dtype=np.float32), "b": np.int8(7)}
        >>> buffer = pack(tree)
        >>> again = unpack(buffer, like=tree)
        >>> again["w"].tolist(), again["b"].item(), again["b"].dtype.name
        ([0.0, 1.0, 2.0], 7, 'int8')
    """
    shapes_of("tree", tree)
    check_arrays("tree", tree)
    arrays = list(map(np.asarray, jax.tree.leaves(tree)))
    about = [[array.dtype.name, *array.shape] for array in arrays]
    header = json.dumps(about).encode()
    at = aligned(8 + len(header))
    offsets: list[int] = []
    for array in arrays:
        offsets.append(at)
        at = aligned(at + array.nbytes)
    buffer = bytearray(at)
    buffer[:8] = len(header).to_bytes(8, "little")
    buffer[8 : 8 + len(header)] = header
    for array, offset in zip(arrays, offsets, strict=True):
        part = np.frombuffer(buffer, np.uint8, array.nbytes, offset)
        part[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return buffer


def unpack(buffer: bytes | bytearray | memoryview, like: Tree) -> Tree:
    """The tree in a buffer, as NumPy arrays on its memory: they are what it is.

    Args:
        buffer: from `pack`.
        like: a tree of the structure, shapes and dtypes that are expected; arrays or
            `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: if something else is in it, or not all of it is there.
    """
    expected = [[np.dtype(leaf.dtype).name, *leaf.shape] for leaf in jax.tree.leaves(like)]
    length = int.from_bytes(buffer[:8], "little")
    try:
        about = json.loads(bytes(buffer[8 : 8 + length]))
    except ValueError as error:
        raise ValueError("the buffer does not begin as one that `pack` has made.") from error
    if about != expected:
        raise ValueError(f"the buffer holds arrays {about}, but {expected} are expected.")
    return laid_out(buffer, like, aligned(8 + length))


def laid_out(buffer: Any, like: Tree, at: int = 0) -> Tree:
    """A tree of NumPy arrays on a buffer's memory, one after the other, each aligned.

    Args:
        buffer: of bytes.
        like: a tree of that structure, and of those shapes and dtypes.
        at: where the first begins.

    Raises:
        ValueError: if the buffer is too short.
    """
    leaves, structure = jax.tree.flatten(like)
    arrays: list[Any] = []
    for leaf in leaves:
        dtype = np.dtype(leaf.dtype)
        count = int(np.prod(leaf.shape, dtype=np.int64))
        if at + count * dtype.itemsize > len(buffer):
            raise ValueError(
                f"the buffer ends at byte {len(buffer)}, within an array: it was cut off."
            )
        arrays.append(np.frombuffer(buffer, dtype, count, at).reshape(leaf.shape))
        at = aligned(at + count * dtype.itemsize)
    return structure.unflatten(arrays)


def aligned(offset: int) -> int:
    """The first aligned offset from this one on."""
    return -(-offset // ALIGNMENT) * ALIGNMENT
