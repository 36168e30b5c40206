"""Checksums of arrays, which say whether what came is what was sent."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jax_ssp.trees import Tree

BLOCK = 1024  # words of 8 bytes
LARGE = 1 << 9  # blocks, from which on several threads share them
THREADS = min(4, os.cpu_count() or 1)  # as many as it takes to read at the speed of memory
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
    blocks = _summed(data[:whole].view(np.uint64).reshape(-1, BLOCK))
    rest = np.zeros(8 * BLOCK, np.uint8)
    rest[: data.size - whole] = data[whole:]
    blocks = np.append(blocks, rest.view(np.uint64))
    factors = np.arange(1, 2 * blocks.size, 2, dtype=np.uint64) * _ODD
    return (blocks * factors).sum(dtype=np.uint64) + np.uint64(data.size)


def _summed(blocks: np.ndarray) -> np.ndarray:
    """The sum of each block."""
    if len(blocks) < LARGE:
        return _sum(blocks)
    return np.concatenate(list(_threads().map(_sum, np.array_split(blocks, THREADS))))


def _sum(blocks: np.ndarray) -> np.ndarray:
    return blocks.sum(axis=1, dtype=np.uint64)  # others go on meanwhile


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "checksum")
