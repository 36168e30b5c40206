"""A slice: a mesh of several devices on which one worker computes, and how its arrays lie there.

Inside a slice arrays are sharded as their `PartitionSpec`s say, and XLA makes the collectives.
Between slices there are none. All slices of a run have the same axes, so one specification serves
them all, and a program is traced once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jax_ssp.pairs import Tree
from jax_ssp.shardings import REPLICATED, Specs, axes_of, check_divides, specs_like, trimmed

OF_DATA = ("data", "batch", "fsdp", "dp", "replica")
"""Names of axes over which batches are split, where nobody says otherwise."""


@dataclass(frozen=True)
class Slice:
    """A mesh, and how what a worker computes with lies on it.

    Attributes:
        mesh: of the worker's devices; an abstract one where these are in another process.
        params: of each leaf of the parameters.
        batch: of a batch: one specification for all its leaves, or a tree of them.

    Example:
        >>> mesh = Mesh(np.array(jax.devices()[:1]), ("fsdp",))
        >>> there = Slice(mesh, (PartitionSpec("fsdp"),))
        >>> there.device == jax.devices()[0], tuple(there.tree({"w": np.zeros(2)})["w"].spec)
        (True, ('fsdp',))
    """

    mesh: Mesh | AbstractMesh
    params: Specs
    batch: Any = field(default=REPLICATED, compare=False)

    @cached_property
    def devices(self) -> tuple[jax.Device, ...]:
        """By position."""
        assert isinstance(self.mesh, Mesh), "they are in another process"
        return tuple(self.mesh.devices.flat)

    @cached_property
    def here(self) -> tuple[int, ...]:
        """The positions whose devices are of this process: all, unless it spans several."""
        mine = jax.process_index()
        return tuple(at for at, each in enumerate(self.devices) if each.process_index == mine)

    @property
    def spans(self) -> bool:
        """Whether it has devices of other processes, which run the same programs."""
        return len(self.here) < self.size

    @property
    def device(self) -> jax.Device:
        """The first one of this process."""
        return self.devices[self.here[0]]

    @property
    def size(self) -> int:
        """How many devices."""
        return self.mesh.size

    def on(self, devices: Sequence[jax.Device]) -> Slice:
        """The same on other devices, the first of these."""
        axes, types = axes_of(self.mesh), self.mesh.axis_types
        return replace(self, mesh=mesh_of(devices[: self.size], axes, types))

    @property
    def lock(self) -> threading.RLock:
        """Held while a program is dispatched: all devices are to get programs in one order."""
        return _lock(self.mesh)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Its mesh is the one that `jax.set_mesh` sets, for this thread alone."""
        if isinstance(self.mesh, AbstractMesh):  # for what is traced
            with jax.sharding.use_abstract_mesh(self.mesh):
                yield
            return
        with self.lock, jax.set_mesh(self.mesh):
            yield

    def sharding(self, spec: PartitionSpec = REPLICATED) -> NamedSharding:
        """The sharding of that specification here."""
        return _sharding(self.mesh, spec)

    def tree(self, params: Tree) -> Tree:
        """The shardings of a tree like the parameters, which may have more where it has a leaf."""
        return jax.tree.structure(params).unflatten(map(self.sharding, self.params))

    def put(self, tree: Tree, may_alias: bool | None = None) -> Tree:
        """Arrays here as they lie elsewhere on a mesh of such axes; all others on every device."""
        shardings = jax.tree.map(lambda leaf: self.sharding(self.own(leaf)), tree)
        if self.spans:
            return jax.tree.map(laid, tree, shardings)
        return jax.device_put(tree, shardings, may_alias=may_alias)

    def own(self, leaf: Any) -> PartitionSpec:
        """How an array lies on a mesh of such axes; replicated if it lies on none."""
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and axes_of(sharding.mesh) == axes_of(self.mesh):
            return trimmed(sharding.spec)
        return REPLICATED

    def put_batch(self, batch: Tree, stacked: bool) -> Tree:
        """A batch, or several that are stacked along a new first axis, which stays whole.

        Raises:
            ValueError: if a leaf cannot be split so; it is named.
        """
        shardings = self.of_batch(batch, stacked)
        if self.spans:
            return jax.tree.map(laid, batch, shardings)
        return jax.device_put(batch, shardings)

    def of_batch(self, batch: Tree, stacked: bool = False) -> Tree:
        """How a batch lies here, or several that are stacked; see `put_batch`.

        Raises:
            ValueError: if a leaf cannot be split so; it is named.
        """
        specs = specs_like(batch, self.batch, "batch_spec", "batch")
        named = jax.tree_util.tree_leaves_with_path(batch)
        shardings: list[NamedSharding] = []
        for (path, leaf), spec in zip(named, specs, strict=True):
            rank = np.ndim(leaf) - stacked
            if isinstance(self.batch, PartitionSpec) and len(spec) > rank:
                spec = REPLICATED  # such as a weight beside the examples
            shape = np.shape(leaf)[1:] if stacked else np.shape(leaf)
            check_divides(f"batch{jax.tree_util.keystr(path)}", shape, spec, self.mesh)
            shardings.append(self.sharding(PartitionSpec(None, *spec) if stacked else spec))
        return jax.tree.structure(batch).unflatten(shardings)


class Slices(NamedTuple):
    """The slices of a run before its parameters are known.

    Attributes:
        meshes: of each worker, all with the same axes.
        shardings: of the parameters: see `param_specs`.
        batch: of a batch; None for what the name of the first axis says.
        specs: of the parameters, where that is known already.
    """

    meshes: Sequence[Mesh | AbstractMesh]
    shardings: Any = None
    batch: Any = None
    specs: Specs | None = None


@lru_cache(maxsize=1024)
def _lock(mesh: Mesh | AbstractMesh) -> threading.RLock:
    return threading.RLock()


@lru_cache(maxsize=4096)
def _sharding(mesh: Mesh | AbstractMesh, spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(mesh, spec)


def laid(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """A copy of an array where devices of several processes have it, each of which has all of it.

    Each takes what is its own: `jax.device_put` would first have them all compare what they have.
    """
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers, kind = jax.random.key_data(leaf), jax.random.key_impl(leaf)
        return jax.random.wrap_key_data(laid(numbers, sharding), impl=kind)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, sharding, may_alias=False)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(
        whole.shape, sharding, lambda index: np.array(whole[index]), dtype=whole.dtype
    )


def pinned(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
    """An array in a program, laid out so on the mesh that is set; pure."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return leaf
    if AxisType.Explicit in mesh.axis_types:
        return jax.sharding.reshard(leaf, spec)
    return jax.lax.with_sharding_constraint(leaf, spec)


def mesh_of(devices: Sequence[jax.Device], axes: Mapping[str, int], types: Sequence[Any]) -> Mesh:
    """A mesh of these devices, in their order."""
    array = np.empty(len(devices), object)
    array[:] = devices
    return Mesh(array.reshape([*axes.values()]), tuple(axes), axis_types=tuple(types))
