"""A 32nd of the bytes: the signs, and one magnitude for all numbers of a leaf."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_ssp.compression.base import Compressor, Message, Tree, decode_leaves, encode_leaves


@dataclass(frozen=True)
class Sign(Compressor):
    r"""Send one bit a number, and the mean magnitude of the leaf.

    A leaf :math:`x` of :math:`n` numbers is sent as their signs, packed 8 a byte, and the float32
    scale :math:`s = \|x\|_1 / n`; number :math:`i` arrives as :math:`s \, \mathrm{sign}(x_i)`,
    which is exact, and

    .. math:: \|x - \mathrm{decode}(\mathrm{encode}(x))\|^2
        = \Bigl(1 - \frac{\|x\|_1^2}{n \|x\|_2^2}\Bigr) \|x\|^2,

    to float rounding. It takes 1/8 byte a number and 4 bytes a leaf.

    One bit cannot say 0: sign(0) is +1. Numbers far smaller than the mean of their leaf arrive far
    too large, now with one sign and now with the other; it is `compress` that makes them right in
    the mean.

    A leaf that holds a number that is not finite arrives as NaNs, and so does one of float64 whose
    mean is beyond float32; other leaves are not touched. A leaf whose numbers are all below
    :math:`2 n \cdot 1.2 \cdot 10^{-38}` may arrive as zeros, and then stays in the residual.

    It is for deltas. A snapshot whose numbers are all of one magnitude is no model to compute with,
    whatever arrives in the mean; compress snapshots by a format with a relative error.

    Example:
        >>> tree = {"w": jnp.array([[0.5, -3.0, 0.0], [2.0, -0.5, 0.0]])}
        >>> (message,) = Sign().encode(tree)
        >>> f"{int(message['signs'][0]):08b}", float(message["scale"])
        ('10110100', 1.0)
        >>> Sign().decode([message], like=tree)["w"].tolist()
        [[1.0, -1.0, 1.0], [1.0, -1.0, 1.0]]

    Reference:
        Karimireddy, Rebjock, Stich, Jaggi 2019, "Error feedback fixes SignSGD and other gradient
        compression schemes", arXiv:1901.09847. Seide, Fu, Droppo, Li, Yu 2014, "1-bit stochastic
        gradient descent and its application to data-parallel distributed training of speech DNNs",
        Interspeech.
    """

    for_snapshots = False

    def encode(self, tree: Tree) -> Message:
        return encode_leaves(_encode, tree)

    def decode(self, message: Message, like: Tree) -> Tree:
        return decode_leaves(_decode, message, like)


def _encode(leaf: jax.Array) -> dict[str, jax.Array]:
    """From a leaf of n numbers to its signs, uint8 [ceil(n / 8)], and scale, float32 []."""
    flat = leaf.reshape(-1)
    size = max(flat.size, 1)
    # First by a power of 2, which is exact: the sum of finite numbers could be infinite.
    power = 2.0 ** size.bit_length()
    scale = (jnp.sum(jnp.abs(flat) / power) / (size / power)).astype(jnp.float32)
    scale = jnp.where(jnp.isfinite(scale), scale, jnp.nan)
    return {"scale": scale, "signs": jnp.packbits(flat >= 0)}


def _decode(message: dict[str, jax.Array], like: jax.ShapeDtypeStruct) -> jax.Array:
    scale, signs = message["scale"].astype(like.dtype), message["signs"]
    if signs.size != -(-like.size // 8):
        raise ValueError(
            f"the message holds the signs of {max(8 * signs.size - 7, 0)} to {8 * signs.size} "
            f"numbers where `like` has {like.size}; decode with the shapes of what was encoded."
        )
    positive = jnp.unpackbits(signs, count=like.size) != 0
    return jnp.where(positive, scale, -scale).reshape(like.shape)
