"""Checksums of arrays, which say whether what came is what was sent."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jax_ssp.trees import Tree

BLOCK = 1024  # words of 8 bytes
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
    """Of one array: words are added up in blocks, and those with factors that tell their order."""
    data = np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view(np.uint8)
    whole = data.size // (8 * BLOCK) * 8 * BLOCK
    blocks = data[:whole].view(np.uint64).reshape(-1, BLOCK).sum(axis=1, dtype=np.uint64)
    rest = np.zeros(8 * BLOCK, np.uint8)
    rest[: data.size - whole] = data[whole:]
    blocks = np.append(blocks, rest.view(np.uint64))
    factors = np.arange(1, 2 * blocks.size, 2, dtype=np.uint64) * _ODD
    return (blocks * factors).sum(dtype=np.uint64) + np.uint64(data.size)
