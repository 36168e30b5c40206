"""A tree of arrays by the names of its leaves, and back: how a state is kept in a file.

A state is a tree of any containers, but a file has names and arrays. So each leaf gets a name, and
comes back into a tree of the same structure, which whoever goes on has made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jax_ssp.slices import laid
from jax_ssp.trees import Tree


def named(name: str, tree: Tree) -> dict[str, Any]:
    """The leaves of a tree by name; PRNG keys as the numbers they are made of.

    Args:
        name: of the tree, with which the name of each leaf begins.
        tree: of arrays.

    Example:
        >>> named("state", {"mu": np.float32(1), "count": (np.int32(3),)})
        {"state['count'][0]": np.int32(3), "state['mu']": np.float32(1.0)}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name + jax.tree_util.keystr(path): _numbers(leaf) for path, leaf in leaves}


def tree_named(name: str, like: Tree, arrays: Mapping[str, Any], place: Any = None) -> Tree:
    """The tree of that name among arrays.

    Args:
        name: of the tree.
        like: a tree of arrays, or of their shapes, of the same structure.
        arrays: by name, more than these perhaps.
        place: the device to put it on; by default where `like` says that each leaf is, and else the
            default device.

    Raises:
        ValueError: if one is missing, or of another shape or dtype; the leaf is named.

    Example:
        >>> tree_named("state", (jnp.zeros(2),), {"state[0]": np.ones(2, np.float32)})
        (Array([1., 1.], dtype=float32),)
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    return structure.unflatten(
        [_leaf(name + jax.tree_util.keystr(path), leaf, arrays, place) for path, leaf in leaves]
    )


def _numbers(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaf(name: str, like: Any, arrays: Mapping[str, Any], place: Any) -> Any:
    if name not in arrays:
        raise ValueError(f"{name} is missing among what was saved.")
    array = arrays[name]
    expected = jax.eval_shape(_numbers, like)
    if array.shape != expected.shape or array.dtype != expected.dtype:
        raise ValueError(
            f"{name} was saved as {array.dtype}{list(array.shape)}, and is "
            f"{expected.dtype}{list(expected.shape)} here."
        )
    if place is None:
        place = getattr(like, "sharding", None)
    if isinstance(place, NamedSharding) and not place.is_fully_addressable:
        array = laid(np.asarray(array), place)
    else:
        array = jax.device_put(np.asarray(array), place, may_alias=False)
    if not _is_key(like):
        return array
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
