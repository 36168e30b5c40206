"""The few largest numbers of each leaf, with their places; the others wait in the residual."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp

from jax_ssp.checks import put, share
from jax_ssp.compression.base import Compressor, Message, Tree, decode_leaves, encode_leaves


@dataclass(frozen=True)
class TopK(Compressor):
    r"""Send of each leaf the numbers of largest magnitude, and where they are.

    Of a leaf of :math:`n` numbers :math:`k = \lceil \mathrm{fraction} \cdot n \rceil` travel as
    they are, each with its place, an int32; the others arrive as 0, so that

    .. math:: \|x - \mathrm{decode}(\mathrm{encode}(x))\|^2 \le (1 - k/n) \|x\|^2.

    What is sent arrives bit for bit, and `compress` keeps exactly the rest. Of equal magnitudes the
    first ones go. It takes 8 fraction bytes a number (12 fraction in float64): a fraction above
    1/8 takes more than `Int8`, and one above 1/2 more than no compressor.

    A NaN counts as infinitely large, so that numbers that are not finite are the first to be sent.
    Where all that was sent of a leaf is not finite, there may be more of them: the rest of it
    arrives as NaNs.

    It is for deltas. A snapshot of which most is 0 is no model to compute with, whatever arrives in
    the mean; compress snapshots by a format that sends every number.

    Args:
        fraction: of the numbers of a leaf, how many are sent: above 0, at most 1. At least one is
            sent of a leaf that is not empty.

    Raises:
        TypeError: if `fraction` is not a number.
        ValueError: if `fraction` is not above 0 and at most 1.

    Example:
        >>> tree = {"w": jnp.array([[0.5, -3.0, 0.25], [2.0, 0.0, -1.0]])}
        >>> (message,) = TopK(fraction=0.5).encode(tree)
        >>> message["places"].tolist(), message["values"].tolist()
        ([1, 3, 5], [-3.0, 2.0, -1.0])
        >>> TopK(fraction=0.5).decode([message], like=tree)["w"].tolist()
        [[0.0, -3.0, 0.0], [2.0, 0.0, -1.0]]
        >>> TopK(fraction=0)
        Traceback (most recent call last):
        ValueError: `TopK(fraction=...)` must be above 0 and at most 1, got 0.

    Reference:
        Aji, Heafield 2017, "Sparse communication for distributed gradient descent",
        arXiv:1704.05021. Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with memory",
        arXiv:1809.07599. Lin, Han, Mao, Wang, Dally 2018, "Deep gradient compression",
        arXiv:1712.01887.
    """

    fraction: float = 0.1

    for_snapshots = False

    def __post_init__(self) -> None:
        put(self, "fraction", share, zero=False)

    def encode(self, tree: Tree) -> Message:
        return encode_leaves(self._encode, tree)

    def decode(self, message: Message, like: Tree) -> Tree:
        return decode_leaves(self._decode, message, like)

    def _encode(self, leaf: jax.Array) -> dict[str, jax.Array]:
        """From a leaf of n numbers to its values, of its dtype [k], and places, int32 [k]."""
        flat = leaf.reshape(-1)
        # Where a NaN is put among the others is the backend's choice, so it is taken for infinity.
        magnitudes = jnp.where(jnp.isnan(flat), jnp.inf, jnp.abs(flat))
        _, places = jax.lax.top_k(magnitudes, self._count(flat.size))
        return {"places": places, "values": flat[places]}

    def _decode(self, message: dict[str, jax.Array], like: jax.ShapeDtypeStruct) -> jax.Array:
        places, values = message["places"], message["values"]
        count = self._count(like.size)
        if not (places.size == values.size == count):
            raise ValueError(
                f"the message holds {values.size} values and {places.size} places where `like` has "
                f"{count} of {like.size}; decode with the shapes and the `fraction` of the "
                f"encoder, here {self.fraction}."
            )
        rest = jnp.where(jnp.isfinite(values).any(), 0, jnp.nan)
        flat = jnp.full(like.size, rest, like.dtype)
        flat = flat.at[places].set(values.astype(like.dtype), unique_indices=True)
        return flat.reshape(like.shape)

    def _count(self, size: int) -> int:
        """How many of so many numbers are sent."""
        # Exactly, of the fraction as it is written: 0.07 * 100 is more than 7 in floating point.
        return math.ceil(Fraction(str(self.fraction)) * size)
