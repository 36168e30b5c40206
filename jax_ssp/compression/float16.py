"""Half the bytes, and three bits more than bfloat16: float16 times a power of 2."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_ssp.compression.base import Compressor, Message, Tree, decode_leaves, encode_leaves

HIGHEST = 14  # the largest number of a leaf is sent as one from 2**14 up to below 2**15
TOP = 32752.0  # the largest float16 below 2**15


@dataclass(frozen=True)
class Float16(Compressor):
    r"""Send every number as a float16, times a power of 2 that suits its leaf.

    A leaf :math:`x` is sent as :math:`h_i = \mathrm{float16}(x_i / 2^e)` and the int32
    :math:`e = \lfloor \log_2 \max_i |x_i| \rfloor - 14`, over its finite numbers. So none is beyond
    65504, where float16 ends (nor does the largest float32 become infinite), and small deltas are
    not below 6.1e-5, where its full precision does:

    .. math:: |x_i - h_i 2^e| \le \max\bigl(2^{-11} |x_i|,\; 2^{-28} \max_j |x_j|\bigr).

    Rounding is to nearest, ties to even, and exact powers of 2 cost nothing. It takes 2 bytes a
    number and 4 a leaf. A number that is not finite arrives as it is and takes no other with it; a
    leaf whose numbers are all below 1.2e-38 may arrive as zeros, and then stays in the residual.

    Example:
        >>> tree = {"w": jnp.array([131072.0, 3.14159])}
        >>> (message,) = Float16().encode(tree)
        >>> message["values"].tolist(), int(message["exponent"])
        ([16384.0, 0.392578125], 3)
        >>> Float16().decode([message], like=tree)["w"].tolist()
        [131072.0, 3.140625]

    Reference:
        Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740 (scaling by a power
        of 2, so that gradients stay in the range of float16).
    """

    def encode(self, tree: Tree) -> Message:
        return encode_leaves(_encode, tree)

    def decode(self, message: Message, like: Tree) -> Tree:
        return decode_leaves(_decode, message, like)


def _encode(leaf: jax.Array) -> dict[str, jax.Array]:
    """From a leaf to its values, float16 of its shape, and the exponent, int32 []."""
    largest = jnp.max(jnp.where(jnp.isfinite(leaf), jnp.abs(leaf), 0), initial=0)
    limits = jnp.finfo(leaf.dtype)
    # frexp gives the exponent of 2 above it. Both powers, of scale and of inverse, must be normal.
    _, above = jnp.frexp(jnp.maximum(largest, limits.tiny))
    exponent = jnp.maximum(above - 1, limits.minexp + HIGHEST + 1) - HIGHEST
    exponent = jnp.where(largest > 0, exponent, 0).astype(jnp.int32)
    scaled = leaf * _power(-exponent, leaf.dtype)
    # Rounded by an operation of its own, which makes the cast exact; see `BFloat16`.
    rounded = jax.lax.reduce_precision(scaled, exponent_bits=5, mantissa_bits=10)
    # What rounds up to 2**15 is sent as the number before, or the largest float32 would overflow.
    top = 2.0 ** (HIGHEST + 1)
    below = jnp.where(rounded == top, TOP, jnp.where(rounded == -top, -TOP, rounded))
    return {"exponent": exponent, "values": below.astype(jnp.float16)}


def _decode(message: dict[str, jax.Array], like: jax.ShapeDtypeStruct) -> jax.Array:
    return message["values"].astype(like.dtype) * _power(message["exponent"], like.dtype)


def _power(exponent: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """2 to this power, made of its bits: exact, whatever the backend's `exp2` does."""
    bits, mantissa = (jnp.uint32, 23) if jnp.finfo(dtype).bits == 32 else (jnp.uint64, 52)
    biased = (exponent + (jnp.finfo(dtype).maxexp - 1)).astype(bits)
    return jax.lax.bitcast_convert_type(biased << bits(mantissa), dtype)
