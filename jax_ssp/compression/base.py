"""What a wire format is, and the error feedback that makes a lossy one harmless.

A format is two pure functions, `encode` and `decode`. What it loses is none of its business:
`compress` adds what earlier messages lost to what is sent now, and keeps what this one loses, so
that in the sum over all messages nothing is lost. To write a format, subclass `Compressor` as a
frozen dataclass; `encode_leaves` and `decode_leaves` do what all formats share.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from jax_ssp.checks import instance, shown
from jax_ssp.pairs import join, split
from jax_ssp.trees import Tree, check_sizes, shapes_of, wide, widened

Message: TypeAlias = Any


@dataclass(frozen=True)
class Compressor(abc.ABC):
    """A lossy wire format of trees of floating-point arrays: deltas or snapshots.

    A complex leaf is two real ones, its real and its imaginary part; `encode_leaves` and
    `decode_leaves` see to that.

    Both methods are pure and can be jitted, scanned and vmapped. The structure, shapes and dtypes
    of a message depend on those of the tree alone, never on its values. A number that is not finite
    must arrive as one that is not finite, and may take others of its leaf with it.

    Example:
        >>> @dataclass(frozen=True)
        ... class Plain(Compressor):
        ...     def encode(self, tree):
        ...         return encode_leaves(lambda leaf: leaf.astype(jnp.float16), tree)
        ...
        ...     def decode(self, message, like):
        ...         return decode_leaves(lambda half, like: half, message, like)
        >>> tree = {"w": jnp.array([0.25, 1000.1])}
        >>> Plain().decode(Plain().encode(tree), like=tree)["w"].tolist()
        [0.25, 1000.0]
    """

    for_snapshots: ClassVar[bool] = True
    """Whether what arrives is near what was sent, number by number, so that one can compute with a
    snapshot; or in the mean over many messages only, which is enough for deltas."""

    random: ClassVar[bool] = False
    """Whether `encode` draws random numbers, and so takes a PRNG key: `encode(tree, key)`. A run
    gives each worker a key of its own for each clock, so that a replay draws the same."""

    @abc.abstractmethod
    def encode(self, tree: Tree) -> Message:
        """What is sent.

        Args:
            tree: floating-point arrays of any shapes and dtypes.
            (key: a PRNG key, where the format is `random`.)

        Returns:
            A pytree of arrays.

        Raises:
            TypeError: if a leaf is something else; its path is named.
        """

    @abc.abstractmethod
    def decode(self, message: Message, like: Tree) -> Tree:
        """What arrives.

        Args:
            message: from `encode`.
            like: arrays, or `jax.ShapeDtypeStruct`s, of the structure, shapes and dtypes wanted.

        Raises:
            TypeError: if a leaf of `like` is not floating point.
            ValueError: if the message has not the size of one that was made of what `like` says.
        """


def compress(
    compressor: Compressor, tree: Tree, residual: Tree, key: jax.Array | None = None
) -> tuple[Message, Tree, Tree]:
    r"""Encode a tree with error feedback: what one message loses goes with the next.

    With residual :math:`e_t` and a tree :math:`x_t` (a delta), it sends
    :math:`m_t = \mathrm{encode}(x_t + e_t)` and keeps
    :math:`e_{t+1} = x_t + e_t - \mathrm{decode}(m_t)`, so that, to float rounding,
    :math:`\sum_t \mathrm{decode}(m_t) + e_{T} = \sum_t x_t`. Sums are taken in at least float32.
    Where the new residual would not be finite it is 0: a NaN or an infinity travels, is seen by the
    receiver, and is forgotten.

    Pure; to jit it, use `jax.jit(functools.partial(compress, compressor))`.

    Args:
        compressor: the format.
        tree: what to send; floating-point arrays.
        residual: what earlier messages lost; at first `residual_of(tree)`.
        key: a PRNG key, another for each message, if the compressor is `random`.

    Returns:
        The message; what the receiver decodes from it, with the shapes and dtypes of `tree`; and
        the residual to pass in with the next tree.

    Raises:
        TypeError: if a leaf of `tree` is not floating point.
        ValueError: if `residual` does not fit `tree`, or a random compressor is given no key.

    Example:
        >>> from jax_ssp.compression import Int8
        >>> delta = {"w": jnp.array([127.0, 0.25])}
        >>> residual = residual_of(delta)
        >>> for _ in range(4):
        ...     message, decoded, residual = compress(Int8(), delta, residual)
        ...     print(decoded["w"].tolist(), residual["w"].tolist())
        [127.0, 0.0] [0.0, 0.25]
        [127.0, 0.0] [0.0, 0.5]
        [127.0, 1.0] [0.0, -0.25]
        [127.0, 0.0] [0.0, 0.0]

    Reference:
        Seide, Fu, Droppo, Li, Yu 2014, "1-bit stochastic gradient descent and its application to
        data-parallel distributed training of speech DNNs", Interspeech. Karimireddy, Rebjock,
        Stich, Jaggi 2019, "Error feedback fixes SignSGD and other gradient compression schemes",
        arXiv:1901.09847.
    """
    instance("compress(compressor=...)", compressor, Compressor, "one such as `Int8()`")
    _shapes(tree)
    shapes_of("residual", residual)
    if _layout(residual) != _layout(jax.eval_shape(residual_of, tree)):
        raise ValueError(
            "`residual` does not fit `tree`: it must have its structure and shapes, in at least "
            f"float32, got {shown(residual)} for {shown(tree)}. Start from `residual_of(tree)`."
        )
    if compressor.random and key is None:
        raise ValueError(
            f"`compress(key=...)`: {compressor!r} draws random numbers; give it a PRNG key, "
            "another for each message, such as `jax.random.fold_in(key, number)`."
        )
    drawn = (key,) if compressor.random else ()
    total = jax.tree.map(lambda leaf, kept: widened(leaf) + kept, tree, residual)
    # What is subtracted must be what arrives. Without the barriers XLA may leave out roundings when
    # they are undone later ("excess precision"), or fuse a decoder's product into the difference;
    # what was rounded away would then be in no residual.
    message = jax.lax.optimization_barrier(compressor.encode(total, *drawn))
    decoded = jax.lax.optimization_barrier(compressor.decode(message, tree))

    def lost(total: jax.Array, decoded: jax.Array) -> jax.Array:
        difference = total - decoded.astype(total.dtype)
        return jnp.where(jnp.isfinite(difference), difference, 0)

    return message, decoded, join(jax.tree.map(lost, split(total), split(decoded)))


def residual_of(tree: Tree) -> Tree:
    """The residual before the first message: zeros, at least float32.

    Args:
        tree: floating-point arrays, or `jax.ShapeDtypeStruct`s.

    Returns:
        Zeros of the same structure and shapes; float64 where the leaf is (complex128 likewise),
        float32 elsewhere (complex64).

    Raises:
        TypeError: if a leaf is not floating point; its path is named.

    Example:
        >>> residual_of({"w": jnp.ones(2, jnp.bfloat16)})
        {'w': Array([0., 0.], dtype=float32)}
    """
    dtypes = [wide(shape.dtype) for shape in _shapes(tree)]
    leaves, structure = jax.tree.flatten(tree)
    zeros = (jnp.zeros_like(leaf, dtype=dtype) for leaf, dtype in zip(leaves, dtypes, strict=True))
    return jax.tree.unflatten(structure, zeros)


def nbytes(message: Message) -> int:
    """Bytes that a message, or any tree of arrays, takes on the wire.

    Args:
        message: arrays, or `jax.ShapeDtypeStruct`s (those of `jax.eval_shape(compressor.encode,
            tree)`, say), of any dtypes.

    Example:
        >>> nbytes({"values": jnp.zeros(256, jnp.int8), "scales": jnp.zeros(1)})
        260
    """
    shapes = jax.tree.leaves(shapes_of("message", message))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in shapes)


def encode_leaves(
    encode: Callable[..., Message], tree: Tree, key: jax.Array | None = None
) -> list[Message]:
    """Encode each leaf alone.

    Args:
        encode: from a real leaf, in at least float32 and of its own shape, to any pytree of arrays.
        tree: floating-point arrays.
        key: a PRNG key; `encode` is then given one of each leaf's own as well.

    Returns:
        One message for each leaf, and two for a complex one.

    Raises:
        TypeError: if a leaf is not floating point.
    """
    _shapes(tree)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)):
        raise TypeError(f"`tree` must hold arrays with values, got {shown(tree)}.")
    leaves = list(map(widened, jax.tree.leaves(split(tree))))
    if key is None:
        return list(map(encode, leaves))
    return [encode(leaf, jax.random.fold_in(key, number)) for number, leaf in enumerate(leaves)]


def decode_leaves(
    decode: Callable[[Message, jax.ShapeDtypeStruct], jax.Array], message: list[Message], like: Tree
) -> Tree:
    """Decode what `encode_leaves` made.

    Args:
        decode: from a leaf's message, and the shape and dtype that its `encode` was given, to an
            array of that shape in any floating-point dtype.
        message: from `encode_leaves`.
        like: arrays or `jax.ShapeDtypeStruct`s: the structure, shapes and dtypes of the result.

    Raises:
        TypeError: if a leaf of `like` is not floating point.
        ValueError: if the number of leaves or a shape differs.
    """
    _shapes(like, "like")
    pairs = jax.eval_shape(split, like)
    shapes = jax.tree.leaves(pairs)
    if len(message) != len(shapes):
        raise ValueError(
            f"the message holds {len(message)} leaves, `like` has {len(shapes)}; give `decode` the "
            "structure of what was encoded."
        )
    leaves: list[jax.Array] = []
    for part, shape in zip(message, shapes, strict=True):
        given = jax.ShapeDtypeStruct(shape.shape, wide(shape.dtype))
        leaf = decode(part, given)
        if leaf.shape != shape.shape:
            raise ValueError(
                f"the message holds an array of shape {leaf.shape} where `like` has {shape.shape}; "
                "give `decode` the shapes of what was encoded."
            )
        leaves.append(_narrowed(leaf.astype(given.dtype), shape.dtype))
    return join(jax.tree.unflatten(jax.tree.structure(pairs), leaves))


def _shapes(tree: Tree, name: str = "tree") -> list[jax.ShapeDtypeStruct]:
    """Shape and dtype of each leaf, as JAX would hold it; TypeError unless all are floats."""
    shapes = shapes_of(name, tree)
    check_sizes(name, tree)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"`{name}{jax.tree_util.keystr(path)}` is {leaf.dtype}; only floating-point "
                "arrays can be compressed. Keep the others out of the tree."
            )
    return jax.tree.leaves(shapes)


def _layout(tree: Tree) -> tuple[Any, list[Any]]:
    shapes = jax.eval_shape(lambda tree: tree, tree)
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(shapes)]


def _narrowed(leaf: jax.Array, dtype: jnp.dtype) -> jax.Array:
    if leaf.dtype == dtype:
        return leaf
    # For a receiver that widens it again; see `compress`.
    return jax.lax.optimization_barrier(leaf.astype(dtype))
