"""Arrays on the host, whole or what a process has of them; and how they come together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Held:
    """What a process has of an array that several have together.

    Attributes:
        shape, dtype: of the whole.
        shards: each with where it is in it.
    """

    shape: tuple[int, ...]
    dtype: Any
    shards: list[tuple[tuple[slice, ...], np.ndarray]]


def on_host(tree: Any) -> Any:
    """A tree with NumPy arrays in place of those of devices; keys of JAX's stay what they are."""
    return jax.tree.map(_on_host, tree)


def _on_host(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array):
        return leaf
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        if leaf.is_fully_addressable:
            return leaf
        numbers, kind = np.asarray(jax.random.key_data(leaf)), jax.random.key_impl(leaf)
        return jax.random.wrap_key_data(numbers, impl=kind)
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    shards = [(each.index, np.asarray(each.data)) for each in leaf.addressable_shards]
    return Held(leaf.shape, leaf.dtype, shards)


def merged(values: Sequence[Any]) -> Any:
    """What several processes gave, as one: arrays whole of which each had some.

    What one does not have another has; what all have is the same.

    Example:
        >>> halves = [Held((2,), np.int32, [((slice(n, n + 1),), np.int32([n]))]) for n in (0, 1)]
        >>> merged([[{"a": halves[0]}, None], [{"a": halves[1]}, 7]])
        [{'a': array([0, 1], dtype=int32)}, 7]
    """
    values = [each for each in values if each is not None]
    if not values:
        return None
    first = values[0]
    if type(first) is dict:
        names = dict.fromkeys(name for each in values for name in each)
        return {name: merged([each[name] for each in values if name in each]) for name in names}
    if type(first) in (list, tuple):
        return type(first)(map(merged, zip(*values, strict=True)))
    return jax.tree.map(_whole, *values)


def _whole(*parts: Any) -> Any:
    if not isinstance(parts[0], Held):
        return parts[0]
    whole = np.empty(parts[0].shape, parts[0].dtype)
    for index, shard in [each for part in parts for each in part.shards]:
        whole[index] = shard
    return whole
