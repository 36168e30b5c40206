"""A quarter of the bytes: blocks of 8-bit integers, a scale for each block."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.checks import INT32, integer, put
from jax_ssp.compression.base import Compressor, Message, Tree, decode_leaves, encode_leaves


@dataclass(frozen=True)
class Int8(Compressor):
    r"""Send blocks of numbers as 8-bit integers times a scale of the block.

    Each leaf is flattened and cut into blocks; the last one may be short. A block :math:`x` is sent
    as :math:`q_i = \mathrm{round}(x_i / s)`, in -127..127, with the float32 scale
    :math:`s = \max_i |x_i| / 127`, which is rounded down to 17 bits: the products :math:`q_i s` are
    then exact, so that sender and receiver agree to the last bit whatever their compilers fuse.
    :math:`|x_i - q_i s| \le \max_i |x_i| / 254`, to float rounding. It takes 1 + 4 / block bytes a
    number.

    A block whose scale would be below float32's smallest normal number, 1.2e-38, arrives as zeros;
    one that holds a number that is not finite arrives as NaNs; other blocks are not touched.

    Args:
        block: numbers that share a scale; smaller is more accurate and takes more bytes.

    Raises:
        TypeError: if `block` is not an integer.
        ValueError: if `block` is less than 1.

    Example:
        >>> tree = {"w": jnp.array([[2.54, -1.0], [0.5, 0.0]])}
        >>> (message,) = Int8().encode(tree)
        >>> message["values"].tolist(), round(float(message["scales"][0]), 6)
        ([127, -50, 25, 0], 0.02)
        >>> Int8().decode([message], like=tree)["w"].shape
        (2, 2)
        >>> Int8(block=0)
        Traceback (most recent call last):
        ValueError: `Int8(block=...)` must be at least 1, got 0.

    Reference:
        Dettmers, Lewis, Shleifer, Zettlemoyer 2021, "8-bit optimizers via block-wise quantization",
        arXiv:2110.02861. Scaled integers for gradients, rounded at random where error feedback is
        used here: Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, "QSGD", arXiv:1610.02132.
    """

    block: int = 256

    def __post_init__(self) -> None:
        put(self, "block", integer, least=1, most=INT32)

    def encode(self, tree: Tree) -> Message:
        return encode_leaves(self._encode, tree)

    def decode(self, message: Message, like: Tree) -> Tree:
        return decode_leaves(self._decode, message, like)

    def _encode(self, leaf: jax.Array) -> dict[str, jax.Array]:
        """From a leaf of n numbers to its values, int8 [n], and scales, float32 [blocks]."""
        parts = [_quantized(rows) for rows in self._rows(leaf.reshape(-1))]
        values, scales = (jnp.concatenate(several) for several in zip(*parts, strict=True))
        return {"values": values, "scales": scales}

    def _decode(self, message: dict[str, jax.Array], like: jax.ShapeDtypeStruct) -> jax.Array:
        values, scales = message["values"], message["scales"]
        blocks = -(-like.size // self.block)
        if (values.size, scales.size) != (like.size, blocks):
            raise ValueError(
                f"the message holds {values.size} values in {scales.size} blocks where `like` has "
                f"{like.size} in {blocks}; decode with the shapes and the `block` of the encoder, "
                f"here {self.block}."
            )
        whole, rest = self._rows(values)
        parts = zip((whole, rest), jnp.split(scales, [len(whole)]), strict=True)
        decoded = [rows.astype(like.dtype) * s.astype(like.dtype)[:, None] for rows, s in parts]
        return jnp.concatenate([rows.reshape(-1) for rows in decoded]).reshape(like.shape)

    def _rows(self, flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The whole blocks, [size // block, block], and what is left, [0 or 1, size % block].

        Not one padded array: the padding would cost a copy, and bytes on the wire.
        """
        cut = flat.size // self.block * self.block
        whole, rest = jnp.split(flat, [cut])
        return whole.reshape(-1, self.block), rest.reshape(min(1, rest.size), rest.size)


def _quantized(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Values, flat, and scales of blocks, one a row."""
    scales = _scales(jnp.max(jnp.abs(rows), axis=1, initial=0))[:, None]
    # Inside the selections are values to which a division by 0 or infinity would give a meaning
    # that depends on the backend.
    divisors = jnp.where(scales > 0, scales, 1).astype(rows.dtype)
    values = jnp.where(jnp.isfinite(scales), jnp.round(rows / divisors), 0)
    return values.astype(jnp.int8).reshape(-1), scales[:, 0]


def _scales(largest: jax.Array) -> jax.Array:
    """A 127th of it, in float32 rounded down to 17 bits; 0 if that is subnormal."""
    # In the bits that are left, it makes no difference that XLA may multiply by 1 / 127 instead.
    scales = largest.astype(jnp.float32) / 127
    bits = jax.lax.bitcast_convert_type(scales, jnp.int32) & np.int32(-(1 << 7))
    scales = jax.lax.bitcast_convert_type(bits, jnp.float32)
    # XLA on a CPU takes subnormals for 0 anyway; other backends would divide by them.
    return jnp.where(scales < jnp.finfo(jnp.float32).tiny, 0, scales)
