"""How batches come to a worker's device: one as it is, several stacked, if they are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from jax_ssp.data.memory import empty
from jax_ssp.placement import Placement
from jax_ssp.slices import Slice
from jax_ssp.trees import Tree, flatten

Device: TypeAlias = jax.Device | Slice | jax.sharding.Sharding | None
Kind: TypeAlias = tuple[Any, ...]


def put(batch: Tree, device: Device, stacked: bool = False) -> Tree:
    """A batch on the device; it stays what it is where programs read it so, or where it is there.

    Args:
        batch: one, or several, stacked along a new first axis.
        device: where to; a slice splits each batch as it says.
        stacked: whether they are several.
    """
    if isinstance(device, Slice):
        return device.put_batch(batch, stacked)
    if isinstance(device, jax.Device):
        leaves, _ = flatten(batch)
        if reads_numpy(device) and all(isinstance(leaf, np.ndarray) for leaf in leaves):
            return batch
        place = SingleDeviceSharding(device)
        if all(isinstance(leaf, jax.Array) and _is_at(leaf, place) for leaf in leaves):
            return batch
    return jax.device_put(batch, device)


def _is_at(array: jax.Array, place: SingleDeviceSharding) -> bool:
    """Whether an array is there, and not only because JAX had to put it somewhere."""
    return array.committed and array.sharding == place


def reads_numpy(device: Device) -> bool:
    """Whether programs there read NumPy arrays as they are: those of a device of the host."""
    return isinstance(device, jax.Device) and Placement.of(device).on_host


def stacked(batches: Sequence[Tree], device: Device, worker: int, first: int) -> Tree:
    """Batches on the device, stacked along a new first axis.

    Args:
        batches: at least one.
        device: where to; of a sharding, which is that of one batch, the new axis stays whole.
        worker: whose they are, and
        first: the number of the first of them in its data, for messages.

    Raises:
        ValueError: if they differ in structure, shape or dtype; it names the leaf and both batches.
    """
    leaves, structures = zip(*map(flatten, batches), strict=True)
    kinds = list(map(_kind, leaves, structures))
    if kinds.count(kinds[0]) < len(kinds):
        raise _unlike(batches, kinds, worker, first)
    there = device
    if isinstance(device, jax.sharding.NamedSharding):
        there = device.update(spec=jax.P(None, *device.spec))
    whole = [_stack(each, device) for each in zip(*leaves, strict=True)]
    return put(structures[0].unflatten(whole), there, stacked=True)


def repeated(batch: Tree, steps: int, device: Device) -> Tree:
    """What `stacked` gives of so many batches like this one, but for its place."""
    return jax.tree.map(lambda leaf: _stack((leaf,) * steps, device), batch)


def _unlike(batches: Sequence[Tree], kinds: Sequence[Kind], worker: int, start: int) -> ValueError:
    """The error to raise as one of these cannot be stacked on batches[0]: says where."""
    index = next(index for index, kind in enumerate(kinds) if kind != kinds[0])
    first, other = _describe(batches[0]), _describe(batches[index])
    path = next(p for p in {**first, **other} if first.get(p) != other.get(p))
    return ValueError(
        f"`data(worker={worker})` must give batches of one shape to a clock of "
        f"{len(batches)} local steps, but {path} is {first.get(path, 'missing')} in batch "
        f"{start} and {other.get(path, 'missing')} in batch {start + index}; leave "
        "out the incomplete last batch, or pad it."
    )


def kind_of(batch: Tree) -> Kind:
    """What batches must have in common to be stacked, or traced once: structure, shapes, dtypes."""
    return _kind(*flatten(batch))


def _kind(leaves: list[Any], structure: Any) -> Kind:
    """The same, of a tree's leaves and its structure."""
    return structure, *map(_kind_of_leaf, leaves)


def _kind_of_leaf(leaf: Any) -> tuple[tuple[int, ...], Any]:
    if type(leaf) is np.ndarray:  # nearly always
        return leaf.shape, leaf.dtype
    return np.shape(leaf), _dtype(leaf)


def _describe(batch: Tree) -> dict[str, str]:
    """The same in words: dtype and shape of each leaf by its path, and the structure."""
    leaves, structure = jax.tree.flatten_with_path(batch)
    described = {
        f"batch{jax.tree_util.keystr(path)}": f"{_dtype(leaf)}{list(np.shape(leaf))}"
        for path, leaf in leaves
    }
    return {**described, "the structure": str(structure)}


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else type(leaf).__name__


def _stack(leaves: tuple[Any, ...], device: Device) -> np.ndarray | jax.Array:
    """One leaf of several batches, stacked: on the host, unless it is on devices already."""
    if set(map(type, leaves)) == {np.ndarray}:  # nearly always, and then alike
        there = empty((len(leaves), *leaves[0].shape), leaves[0].dtype)
        for step, leaf in enumerate(leaves):
            there[step] = leaf
        return there
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        place = device.device if isinstance(device, Slice) else device
        return jnp.stack(jax.device_put(leaves, place))
    first = np.asarray(leaves[0])
    return np.stack(leaves, out=empty((len(leaves), *first.shape), first.dtype))
