"""What a batch may hold: arrays of any library whose memory is the host's, as NumPy arrays.

NumPy's and JAX's arrays, and numbers, are taken as they are. Any other leaf has to offer itself by
`__array__`, `__dlpack__` or Python's buffer protocol, as tensors of torch and TensorFlow do.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import numpy as np

from jax_ssp.data.memory import copy_of
from jax_ssp.trees import Tree, check_tree, flatten

_NUMBERS = (bool, int, float, complex)
_OFFERS = ("__array__", "__array_interface__", "__dlpack__")
_HOST_MEMORY = (1, 3, 11)  # of DLPack's kinds: the host's, and that pinned by CUDA or ROCm
_NO_NUMBERS = "OSUmM"  # NumPy's kinds of objects, bytes, strings, durations and dates


def owned(tree: Tree) -> Tree:
    """NumPy leaves copied: JAX may compute on their memory later, whatever is in it by then."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def as_numpy(batch: Tree, fresh: bool) -> Tree | None:
    """A batch of NumPy's own arrays of numbers alone, as nearly all are; None of any other.

    Args:
        batch: as an iterator gave it.
        fresh: see `taken`, which takes any batch, and says what is wrong with one.

    Example:
        >>> as_numpy({"x": np.arange(2)}, fresh=False), as_numpy({"x": 0.5}, fresh=False)
        ({'x': array([0, 1])}, None)
    """
    try:
        leaves, structure = flatten(batch)
    except Exception:  # it is no tree
        return None
    for leaf in leaves:
        if type(leaf) is not np.ndarray or leaf.dtype.kind in _NO_NUMBERS:
            return None
    return batch if fresh else structure.unflatten(map(copy_of, leaves))


def taken(batch: Tree, who: str, fresh: bool = False) -> Tree:
    """A batch, its leaves arrays of NumPy or JAX, or single numbers.

    Args:
        batch: as an iterator gave it.
        who: gave it, for messages: "`data(worker=0)`, batch 3".
        fresh: whether its memory is the batch's alone for good; else it is copied.

    Raises:
        TypeError: if a leaf is no such thing; the message names it by its path.

    Example:
        >>> taken({"x": memoryview(b"12"), "weight": 0.5}, "`data(worker=0)`, batch 0")
        {'weight': 0.5, 'x': array([49, 50], dtype=uint8)}
    """
    try:
        leaves, structure = jax.tree.flatten(batch)
    except Exception:
        check_tree(f"{who}: batch", batch)
        raise
    if any(map(_is_number, leaves)):
        _check_lists(batch, who)
    arrays = [_plain(leaf, fresh) for leaf in leaves]
    for place, (path, leaf) in enumerate(_paths_of(batch, arrays)):
        if arrays[place] is None:
            found = _foreign(leaf, f"{who}: `batch{jax.tree_util.keystr(path)}`")
            arrays[place] = found if fresh else copy_of(found)
    if all(map(lambda one, other: one is other, arrays, leaves)):
        return batch
    return structure.unflatten(arrays)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, (*_NUMBERS, np.generic))


def _plain(leaf: Any, fresh: bool) -> Any:
    """What needs no conversion; None if this does."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        if leaf.dtype.kind in _NO_NUMBERS:
            return None
        if fresh or not isinstance(leaf, np.ndarray):
            return leaf
        # A masked array, say, stays one, for JAX to refuse.
        return copy_of(leaf) if type(leaf) is np.ndarray else leaf.copy()
    return leaf if isinstance(leaf, (jax.Array, *_NUMBERS)) else None


def _check_lists(batch: Tree, who: str) -> None:
    """Raise TypeError at a list of numbers, which JAX would take for as many arrays."""

    def is_list(node: Any) -> bool:
        return type(node) is list and bool(node) and all(map(_is_number, node))

    for path, node in jax.tree.leaves_with_path(batch, is_leaf=is_list):
        if is_list(node):
            raise TypeError(
                f"{who}: `batch{jax.tree_util.keystr(path)}` is a list of {len(node)} numbers; "
                "make it an array, `np.asarray(...)`."
            )


def _paths_of(batch: Tree, arrays: list[Any]) -> list[tuple[Any, Any]]:
    """All leaves with their paths, if one of them is no array yet; they take time to make."""
    return jax.tree.leaves_with_path(batch) if any(leaf is None for leaf in arrays) else []


def _foreign(leaf: Any, which: str) -> np.ndarray:
    """The array that a leaf offers, on the same memory where it can be.

    Raises:
        TypeError: if it offers none; `which` leaf it is, begins the message.
    """
    kind = type(leaf).__name__
    if isinstance(leaf, memoryview | array) or any(hasattr(leaf, each) for each in _OFFERS):
        _check_on_host(leaf, which)
        found, reason = _offered(leaf)
        if found is None:
            raise TypeError(f"{which} is a {kind} that gives no array: {reason}")
        if found.dtype.kind not in _NO_NUMBERS:
            return found
        kind = f"{kind} of {found.dtype}"
    raise TypeError(
        f"{which} is a {kind}; a batch is a tree (dicts, lists, tuples) of arrays of numbers. "
        "Leave it out, or make numbers of it."
    )


def _check_on_host(leaf: Any, which: str) -> None:
    device = None
    with suppress(Exception):
        device = leaf.__dlpack_device__()
    if device is not None and device[0] not in _HOST_MEMORY:
        where = getattr(leaf, "device", f"device {device[1]}")
        raise TypeError(
            f"{which} is a {type(leaf).__name__} on {where}; give it on the host (`tensor.cpu()` "
            "of torch): each worker's batches are brought to its own device here."
        )


def _offered(leaf: Any) -> tuple[np.ndarray | None, Exception | None]:
    """What it gives, or why it gives nothing."""
    ways: list[Callable[[Any], np.ndarray]] = [np.asarray]
    if hasattr(leaf, "__dlpack__"):  # NumPy has no bfloat16 of its own, DLPack has
        ways.append(lambda leaf: np.asarray(jax.dlpack.from_dlpack(leaf)))
    reasons: list[Exception] = []
    for way in ways:
        try:
            return way(leaf), None
        except Exception as error:
            reasons.append(error)
    return None, reasons[0]
