"""A tree of arrays as one flat array, which is what travels between memories of their own.

A copy costs some microseconds however small it is, on the host and on the device. A model has
hundreds of small arrays, so all that goes together is laid out in one flat array by a program on
the device, and copied at once. On the host the arrays are then views of that one, each at a
multiple of 64 bytes, where programs on the CPU read them without a copy; another device takes them
out by a program.

What leaves the host is laid out by the host's cores, at the speed of its memory, which is no faster
than the copy itself. There only small arrays go together; a large one goes alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.compression import nbytes
from jax_ssp.placement import Placement
from jax_ssp.server.packing import ALIGNMENT, aligned
from jax_ssp.trees import Tree

SMALL = 1 << 16  # bytes, which take as long to lay out as a copy to begin, or less


@dataclass(frozen=True, eq=False)
class Form:
    """How a tree lies in a flat array, and what goes beside it. Made by `of`, once for all alike.

    Attributes:
        structure: of the tree.
        leaves: shape and dtype of each.
        together: whether each is in the flat array.
        word: dtype of the flat array: unsigned integers as wide as most of what is in it.
    """

    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    together: tuple[bool, ...]
    word: Any

    @classmethod
    def of(cls, tree: Tree, most: float = math.inf) -> Form:
        """The form of a tree of arrays; those of more than `most` bytes go alone."""
        arrays, structure = jax.tree.flatten(tree)
        return _form(structure, tuple([(each.shape, each.dtype) for each in arrays]), most)

    @property
    def is_flat(self) -> bool:
        """Whether some arrays go together."""
        return any(self.together)

    @cached_property
    def inside(self) -> list[tuple[jax.ShapeDtypeStruct, int, int]]:
        """The arrays that go together, each with the bytes that it has of the flat one."""
        found: list[tuple[jax.ShapeDtypeStruct, int, int]] = []
        start = 0
        for leaf in itertools.compress(self.leaves, self.together):
            end = start + nbytes(leaf)
            found.append((leaf, start, end))
            start = aligned(end)
        return found


@lru_cache(maxsize=4096)
def _form(structure: Any, arrays: tuple[tuple[Any, Any], ...], most: float) -> Form:
    leaves = tuple(jax.ShapeDtypeStruct(*each) for each in arrays)
    together = [_is_plain(leaf.dtype) and nbytes(leaf) <= most for leaf in leaves]
    if sum(together) < 2:  # it is flat as it is
        return Form(structure, leaves, (False,) * len(leaves), np.dtype(np.uint8))
    widths = dict.fromkeys((1, 2, 4, 8), 0)
    for leaf in itertools.compress(leaves, together):
        widths[_part(leaf.dtype).itemsize] += nbytes(leaf)
    width = max(widths, key=widths.__getitem__)
    return Form(structure, leaves, tuple(together), np.dtype(f"uint{8 * width}"))


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["form"])
@dataclass(frozen=True)
class Flat:
    """A tree on its way: what goes together, and what goes alone.

    Attributes:
        form: of the tree.
        arrays: the flat one first, if there is one; then those that go alone.

    Example:
        >>> here = Placement.of(jax.devices()[0])
        >>> flat = Flat.of({"w": jnp.ones(3), "b": jnp.zeros((2, 1))}, here)
        >>> [array.nbytes for array in flat.arrays], flat.opened(here)["w"].tolist()
        ([128], [1.0, 1.0, 1.0])
    """

    form: Form
    arrays: list[Any]

    @classmethod
    def of(cls, tree: Tree, source: Placement) -> Flat:
        """A tree that one program made there, laid out there."""
        form = Form.of(tree, SMALL if source.on_host else math.inf)
        leaves = jax.tree.leaves(tree)
        alone = [leaf for leaf, goes in zip(leaves, form.together, strict=True) if not goes]
        if not form.is_flat:
            return cls(form, alone)
        inside = list(itertools.compress(leaves, form.together))
        return cls(form, [_laid_out(inside, word=form.word), *alone])

    def sent(self, source: Placement, to: Placement) -> Flat:
        """Started on its way; see `Placement.send`."""
        return replace(self, arrays=source.send(self.arrays, to))

    def received(self, to: Placement) -> Tree:
        """The tree where it goes, sent or not; see `Placement.receive`."""
        return replace(self, arrays=to.receive(self.arrays)).opened(to)

    def opened(self, place: Placement) -> Tree:
        """The tree where its arrays are: on the host views of them."""
        form, arrays = self.form, self.arrays
        if not form.is_flat:
            return form.structure.unflatten(arrays)
        flat, *alone = arrays
        if place.on_host or isinstance(flat, np.ndarray):
            # Other threads can go on while this one waits here, but not in `asarray`.
            inside = _views(np.asarray(jax.block_until_ready(flat)), form)
        else:
            inside = _taken_out(flat, form=form)
        both = (iter(alone), iter(inside))
        return form.structure.unflatten(next(both[goes]) for goes in form.together)


def _is_plain(dtype: Any) -> bool:
    """Whether its numbers are of whole bytes; those of PRNG keys, or of 4 bits, are not."""
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    kind = jnp.finfo if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo
    return dtype == np.bool_ or kind(dtype).bits >= 8


def _part(dtype: Any) -> np.dtype[Any]:
    """The dtype of what a number is of: of a complex one its parts, else itself."""
    return np.empty(0, dtype).real.dtype


@partial(jax.jit, static_argnames="word")
def _laid_out(leaves: Sequence[jax.Array], word: Any) -> jax.Array:
    """One array of words; each leaf's begin at a multiple of `ALIGNMENT` bytes."""
    step = ALIGNMENT // word.itemsize
    words = [_words(leaf, word) for leaf in leaves]
    return jnp.concatenate([jnp.pad(each, (0, -each.size % step)) for each in words])


def _words(leaf: jax.Array, word: Any) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == np.bool_:
        leaf = leaf.astype(np.uint8)
    flat, share = leaf.reshape(-1), word.itemsize // leaf.dtype.itemsize
    if share > 1:  # several numbers to a word
        flat = jnp.pad(flat, (0, -flat.size % share)).reshape(-1, share)
    return jax.lax.bitcast_convert_type(flat, word).reshape(-1)


@partial(jax.jit, static_argnames="form")
def _taken_out(flat: jax.Array, form: Form) -> list[jax.Array]:
    width = form.word.itemsize
    return [
        _numbers(flat[start // width : -(-end // width)], leaf) for leaf, start, end in form.inside
    ]


def _numbers(words: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """The reverse of `_words`."""
    kind = np.dtype(np.uint8) if leaf.dtype == np.bool_ else _part(leaf.dtype)
    share = kind.itemsize // words.dtype.itemsize
    if share > 1:  # several words to a number
        words = words.reshape(-1, share)
    count = nbytes(leaf) // kind.itemsize
    numbers = jax.lax.bitcast_convert_type(words, kind).reshape(-1)[:count]
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        numbers = jax.lax.complex(numbers[0::2], numbers[1::2])
    return numbers.astype(leaf.dtype).reshape(leaf.shape)


def _views(flat: np.ndarray, form: Form) -> list[np.ndarray]:
    octets = flat.view(np.uint8)
    return [
        octets[start:end].view(leaf.dtype).reshape(leaf.shape) for leaf, start, end in form.inside
    ]
