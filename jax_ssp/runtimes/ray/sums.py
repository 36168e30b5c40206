"""Checksums of arrays, which say whether what came is what was sent."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jax_ssp.trees import Tree

_ODD = np.uint64(0x9E3779B97F4A7C15)


def checksum(tree: Tree) -> int:
    """A number of 64 bits that another tree is unlikely to have; at the speed of memory.

    Args:
        tree: arrays of numbers.

    Example:
        >>> checksum([np.float32(1), np.zeros(3)]) == checksum([np.float32(1), np.zeros(3)])
        True
        >>> checksum([np.float32(1)]) == checksum([np.float32(2)])
        False
    """
    total = np.uint64(0)
    with np.errstate(over="ignore"):
        for leaf in jax.tree.leaves(tree):
            total = total * _ODD + _of(leaf)
    return int(total)


def _of(leaf: Any) -> np.uint64:
    data = np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view(np.uint8)
    whole = data.size // 8 * 8
    words, rest = data[:whole].view(np.uint64), data[whole:].astype(np.uint64)
    even, odd = words[::2].sum(dtype=np.uint64), words[1::2].sum(dtype=np.uint64)
    last = (rest << (np.uint64(8) * np.arange(rest.size, dtype=np.uint64))).sum(dtype=np.uint64)
    return even * _ODD + odd + last + np.uint64(data.size)
