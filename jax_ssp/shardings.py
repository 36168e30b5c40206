"""How trees are sharded over the axes of a mesh: what users say of it, checked, and by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jax_ssp.pairs import Tree

Specs: TypeAlias = tuple[PartitionSpec, ...]
"""How a tree lies on a mesh, a leaf each."""

REPLICATED = PartitionSpec()


class ByLeaf(tuple[PartitionSpec, ...]):
    """Specifications of the leaves of a tree, in their order."""

    __slots__ = ()


def axes_of(mesh: Any) -> dict[str, int]:
    """The axes of a mesh, in their order: sizes by name."""
    return dict(mesh.shape)


def trimmed(spec: PartitionSpec) -> PartitionSpec:
    """The same without axes at the end that are not split."""
    parts = list(spec)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def specs_like(tree: Tree, given: Any, field: str, whose: str) -> list[PartitionSpec]:
    """One specification a leaf, of one for all or a tree of them, with None for replicated.

    Raises:
        ValueError: if the tree of them has not the structure of the other.
        TypeError: if one is no specification.
    """

    def is_spec(node: Any) -> bool:
        return node is None or isinstance(node, (PartitionSpec, NamedSharding))

    structure = jax.tree.structure(tree)
    if isinstance(given, ByLeaf) and len(given) == structure.num_leaves:
        return list(given)
    if is_spec(given):
        return [_spec(given, field)] * structure.num_leaves
    leaves, of = jax.tree.flatten(given, is_leaf=is_spec)
    if of != structure:
        raise ValueError(
            f"`{field}` must be a `jax.P`, or a tree of them with the structure of the {whose}, "
            f"{structure}, got {of}."
        )
    return [_spec(leaf, field) for leaf in leaves]


def _spec(given: Any, field: str) -> PartitionSpec:
    if given is None:
        return REPLICATED
    if isinstance(given, NamedSharding):
        given = given.spec
    if not isinstance(given, PartitionSpec):
        raise TypeError(
            f"`{field}` must hold specifications such as `jax.P('fsdp')`, got a "
            f"{type(given).__name__}."
        )
    return trimmed(given)


def check_divides(name: str, shape: Sequence[int], spec: PartitionSpec, mesh: Any) -> None:
    """Raise ValueError, naming the array, unless a mesh can hold it so."""
    axes = axes_of(mesh)
    split = [part if isinstance(part, tuple) else (part,) for part in spec if part is not None]
    if {axis for part in split for axis in part} - {*axes}:
        raise ValueError(
            f"`{name}` is sharded as {spec}, but a slice has the axes {axes}; name them so: "
            "`axes={...}` beside `devices_per_worker`."
        )
    if len(spec) > len(shape):
        raise ValueError(
            f"`{name}` is sharded as {spec}, which has more axes than its shape {tuple(shape)}."
        )
    for size, part in zip(shape, spec, strict=False):
        names = part if isinstance(part, tuple) else () if part is None else (part,)
        count = int(np.prod([axes[axis] for axis in names], dtype=np.int64))
        if size % count:
            raise ValueError(
                f"`{name}` of shape {tuple(shape)} is sharded as {spec}, but {size} cannot be "
                f"divided by {count}, the size of {part!r} in a slice of {axes}; pad it, or leave "
                "it whole along that axis."
            )


def param_specs(params: Tree, given: Any, mesh: Any) -> Specs:
    """How parameters lie on a slice: as is said, or as their arrays lie on meshes already.

    Args:
        params: of arrays.
        given: a specification for all, a tree of them, or a function params -> that; None for what
            the arrays bear.
        mesh: of a slice.

    Raises:
        TypeError, ValueError: if it cannot be; the leaf is named.
    """
    if given is not None:
        given = given(params) if callable(given) else given
        specs = specs_like(params, given, "shardings", "parameters")
    else:
        shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]
        specs = [
            trimmed(each.spec) if isinstance(each, NamedSharding) else REPLICATED
            for each in shardings
        ]
    named = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), spec in zip(named, specs, strict=True):
        check_divides(f"params{jax.tree_util.keystr(path)}", np.shape(leaf), spec, mesh)
    return tuple(specs)


def state_specs(state: Tree, params: Tree, specs: Specs) -> list[PartitionSpec]:
    """How a state lies on a slice that is made for parameters: its moments lie as these do.

    A leaf follows the parameter of its shape whose path its own path ends with, the longest of
    these; else those of its shape, if all of them lie alike. All else is replicated. Paths are
    compared as words with dots, so that of an nnx model the optimizer may see dicts in dicts where
    the parameters are one.

    Args:
        state, params: arrays, or their shapes.
        specs: of the parameters.

    Example:
        >>> params, w = {"b": np.zeros(2), "w": np.zeros((4, 2))}, PartitionSpec("x")
        >>> state = {"count": np.zeros(()), "mu": params}
        >>> [tuple(spec) for spec in state_specs(state, params, (REPLICATED, w))]
        [(), (), ('x',)]
    """
    of = jax.tree_util.tree_leaves_with_path(params)
    by_shape: dict[tuple[int, ...], dict[str, PartitionSpec]] = {}
    for (path, leaf), spec in zip(of, specs, strict=True):
        by_shape.setdefault(tuple(leaf.shape), {})[_dotted(path)] = spec
    found: list[PartitionSpec] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        alike, own = by_shape.get(tuple(leaf.shape), {}), _dotted(path)
        ends = [name for name in alike if own.endswith(name)]
        choices = {alike[max(ends, key=len)]} if ends else {*alike.values()}
        found.append(choices.pop() if len(choices) == 1 else REPLICATED)
    return found


def _dotted(path: Any) -> str:
    """A path of a tree, with a dot before each of its words."""
    words = jax.tree_util.keystr(path, simple=True, separator=".").replace("\\.", ".")
    return f".{words}" if path else ""


# In a tape, as JSON.


def spec_in_json(spec: PartitionSpec) -> list[Any]:
    """A specification as a list."""
    return [list(part) if isinstance(part, tuple) else part for part in spec]


def spec_of_json(parts: Sequence[Any]) -> PartitionSpec:
    """And back."""
    return PartitionSpec(*(tuple(part) if isinstance(part, list) else part for part in parts))
