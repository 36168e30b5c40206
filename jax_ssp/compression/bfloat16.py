"""Half the bytes: the upper half of a float32."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_ssp.compression.base import Compressor, Message, Tree, decode_leaves, encode_leaves


@dataclass(frozen=True)
class BFloat16(Compressor):
    r"""Send every number as a bfloat16, rounded to nearest, ties to even.

    It takes 2 bytes a number and keeps the range of float32 and 8 bits of precision:
    :math:`|x - \mathrm{decode}(\mathrm{encode}(x))| \le 2^{-8} |x|` (the bound is looser only
    for magnitudes below 1.2e-38, and those above 3.39e38 round to infinity). bfloat16 leaves arrive
    unchanged; those of float16 take no fewer bytes but lose 3 bits, which `compress` keeps in their
    residual. A number that is not finite takes no other with it.

    Example:
        >>> tree = {"w": jnp.array([1.0, 3.14159])}
        >>> message = BFloat16().encode(tree)
        >>> message[0].dtype, BFloat16().decode(message, like=tree)["w"].tolist()
        (dtype(bfloat16), [1.0, 3.140625])

    Reference:
        Kalamkar et al. 2019, "A study of BFLOAT16 for deep learning training", arXiv:1905.12322.
    """

    def encode(self, tree: Tree) -> Message:
        return encode_leaves(_rounded, tree)

    def decode(self, message: Message, like: Tree) -> Tree:
        return decode_leaves(lambda rounded, like: rounded, message, like)


def _rounded(leaf: jax.Array) -> jax.Array:
    # Rounded by an operation of its own, which makes the cast exact: XLA may leave out ("excess
    # precision") a cast that is undone in the same program, and it rounds float64 twice.
    return jax.lax.reduce_precision(leaf, exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16)
