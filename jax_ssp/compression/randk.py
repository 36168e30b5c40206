"""A few numbers of each leaf, drawn at random; where they are is said by a seed."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_ssp.compression.base import Message, Tree, decode_leaves, encode_leaves
from jax_ssp.compression.sparse import Sparse


@dataclass(frozen=True)
class RandK(Sparse):
    r"""Send of each leaf k numbers drawn at random, anew for each message.

    Of a leaf of :math:`n` numbers each has the same chance :math:`k / n` to travel as it is; the
    others arrive as 0, so that in the mean over draws

    .. math:: \mathbb{E} \|x - \mathrm{decode}(\mathrm{encode}(x))\|^2 = (1 - k/n) \|x\|^2.

    Nothing is scaled up: `compress` sends what did not travel with a later message. Sender and
    receiver draw the same places from a seed, so it takes 4 bytes a leaf and of what `TopK` takes
    half: 4 fraction bytes a number (8 in float64). It looks at no number, so all have their turn,
    but the large ones are not the first.

    A leaf that holds a number that is not finite arrives as NaNs. It is for deltas.

    Args:
        fraction: of the numbers of a leaf, how many are sent: above 0, at most 1; k is the least
            number with k / n >= fraction. 0.1 where neither is given.
        k: instead, how many; of a smaller leaf all.

    Raises:
        TypeError: if `fraction` is not a number, or `k` not an integer.
        ValueError: if `fraction` is not above 0 and at most 1, `k` is less than 1, or both are
            given.

    Example:
        >>> tree = {"w": jnp.arange(1.0, 7.0)}
        >>> format = RandK(k=2)
        >>> for seed in (0, 1):
        ...     message = format.encode(tree, jax.random.key(seed))
        ...     print(format.decode(message, like=tree)["w"].tolist())
        [0.0, 2.0, 3.0, 0.0, 0.0, 0.0]
        [1.0, 0.0, 3.0, 0.0, 0.0, 0.0]

    Reference:
        Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with memory", arXiv:1809.07599 (random k with
        error feedback). Konecny et al. 2016, "Federated learning: strategies for improving
        communication efficiency", arXiv:1610.05492 (a random mask that is sent as a seed).
    """

    random = True

    def encode(self, tree: Tree, key: jax.Array) -> Message:
        return encode_leaves(self._encode, tree, key)

    def decode(self, message: Message, like: Tree) -> Tree:
        return decode_leaves(self._decode, message, like)

    def _encode(self, leaf: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """From a leaf of n numbers to a seed, uint32 [], and values, of its dtype [k]."""
        flat = leaf.reshape(-1)
        seed = jax.random.bits(key, (), jnp.uint32)
        values = flat[self._places(seed, flat.size)]
        return {
            "seed": seed,
            "values": jnp.where(jnp.isfinite(flat).all(), values, jnp.full_like(values, jnp.nan)),
        }

    def _decode(self, message: dict[str, jax.Array], like: jax.ShapeDtypeStruct) -> jax.Array:
        values, count = message["values"], self.count(like.size)
        if values.size != count:
            raise ValueError(
                f"the message holds {values.size} values where `like` has {count} of {like.size}; "
                f"decode with the shapes and the {self.amount}, of the encoder."
            )
        rest = jnp.where(jnp.isnan(values).any(), jnp.nan, 0)
        flat = jnp.full(like.size, rest, like.dtype)
        places = self._places(message["seed"], like.size)
        flat = flat.at[places].set(values.astype(like.dtype), unique_indices=True)
        return flat.reshape(like.shape)

    def _places(self, seed: jax.Array, size: int) -> jax.Array:
        key = jax.random.key(seed, impl="threefry2x32")  # the same whatever the run's keys are
        return jax.random.permutation(key, jnp.arange(size, dtype=jnp.int32))[: self.count(size)]
