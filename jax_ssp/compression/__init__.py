"""Compression: lossy wire formats of deltas and snapshots, with error feedback, one file each."""

from jax_ssp.compression.base import Compressor, compress, nbytes, residual_of
from jax_ssp.compression.bfloat16 import BFloat16
from jax_ssp.compression.float16 import Float16
from jax_ssp.compression.int8 import Int8
from jax_ssp.compression.randk import RandK
from jax_ssp.compression.sign import Sign
from jax_ssp.compression.topk import TopK

ALL_COMPRESSORS: tuple[type[Compressor], ...] = (BFloat16, Float16, Int8, TopK, RandK, Sign)
"""Every format; each can be made without arguments. The contract tests run over this table."""

__all__ = [
    "ALL_COMPRESSORS",
    "BFloat16",
    "Compressor",
    "Float16",
    "Int8",
    "RandK",
    "Sign",
    "TopK",
    "compress",
    "nbytes",
    "residual_of",
]
