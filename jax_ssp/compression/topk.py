"""The few largest numbers of each leaf, with their places; the others wait in the residual."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_ssp.compression.base import Message, Tree, decode_leaves, encode_leaves
from jax_ssp.compression.sparse import Sparse


@dataclass(frozen=True)
class TopK(Sparse):
    r"""Send of each leaf the numbers of largest magnitude, and where they are.

    Of a leaf of :math:`n` numbers :math:`k` travel as they are, each with its place, an int32; the
    others arrive as 0, so that

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
        fraction: of the numbers of a leaf, how many are sent: above 0, at most 1; k is the least
            number with k / n >= fraction, so at least one of a leaf that is not empty. 0.1 where
            neither is given.
        k: instead, how many; of a smaller leaf all.

    Raises:
        TypeError: if `fraction` is not a number, or `k` not an integer.
        ValueError: if `fraction` is not above 0 and at most 1, `k` is less than 1, or both are
            given.

    Example:
        >>> tree = {"w": jnp.array([[0.5, -3.0, 0.25], [2.0, 0.0, -1.0]])}
        >>> (message,) = TopK(fraction=0.5).encode(tree)
        >>> message["places"].tolist(), message["values"].tolist()
        ([1, 3, 5], [-3.0, 2.0, -1.0])
        >>> TopK(fraction=0.5).decode([message], like=tree)["w"].tolist()
        [[0.0, -3.0, 0.0], [2.0, 0.0, -1.0]]
        >>> TopK(k=1).encode(tree)[0]["values"].tolist()
        [-3.0]
        >>> TopK(fraction=0)
        Traceback (most recent call last):
        ValueError: `TopK(fraction=...)` must be above 0 and at most 1, got 0.

    Reference:
        Aji, Heafield 2017, "Sparse communication for distributed gradient descent",
        arXiv:1704.05021. Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with memory",
        arXiv:1809.07599. Lin, Han, Mao, Wang, Dally 2018, "Deep gradient compression",
        arXiv:1712.01887.
    """

    def encode(self, tree: Tree) -> Message:
        return encode_leaves(self._encode, tree)

    def decode(self, message: Message, like: Tree) -> Tree:
        return decode_leaves(self._decode, message, like)

    def _encode(self, leaf: jax.Array) -> dict[str, jax.Array]:
        """From a leaf of n numbers to its values, of its dtype [k], and places, int32 [k]."""
        flat = leaf.reshape(-1)
        # Where a NaN is put among the others is the backend's choice, so it is taken for infinity.
        magnitudes = jnp.where(jnp.isnan(flat), jnp.inf, jnp.abs(flat))
        _, places = jax.lax.top_k(magnitudes, self.count(flat.size))
        return {"places": places, "values": flat[places]}

    def _decode(self, message: dict[str, jax.Array], like: jax.ShapeDtypeStruct) -> jax.Array:
        places, values = message["places"], message["values"]
        count = self.count(like.size)
        if not (places.size == values.size == count):
            raise ValueError(
                f"the message holds {values.size} values and {places.size} places where `like` has "
                f"{count} of {like.size}; decode with the shapes and the {self.amount}, of the "
                "encoder."
            )
        rest = jnp.where(jnp.isfinite(values).any(), 0, jnp.nan)
        flat = jnp.full(like.size, rest, like.dtype)
        flat = flat.at[places].set(values.astype(like.dtype), unique_indices=True)
        return flat.reshape(like.shape)
