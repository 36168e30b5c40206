"""Compression: lossy wire formats of deltas and snapshots, with error feedback, one file each.

One that is imported here is in the table of all, and so on the command line and in the contract
tests.
"""

from jax_ssp.compression.base import Compressor as Compressor
from jax_ssp.compression.base import compress as compress
from jax_ssp.compression.base import nbytes as nbytes
from jax_ssp.compression.base import residual_of as residual_of
from jax_ssp.compression.bfloat16 import BFloat16 as BFloat16
from jax_ssp.compression.float16 import Float16 as Float16
from jax_ssp.compression.int8 import Int8 as Int8
from jax_ssp.compression.randk import RandK as RandK
from jax_ssp.compression.sign import Sign as Sign
from jax_ssp.compression.topk import TopK as TopK

_CLASSES = [each for each in tuple(globals().values()) if isinstance(each, type)]

ALL_COMPRESSORS: tuple[type[Compressor], ...] = tuple(
    each for each in _CLASSES if issubclass(each, Compressor) and each is not Compressor
)
"""Every format; each can be made without arguments. The contract tests run over this table."""
