"""Memory that is used again: results are put where arrays were that nobody needs any more."""

from __future__ import annotations

from collections import deque
from typing import Any

import jax
import numpy as np

from jax_ssp.compression import nbytes
from jax_ssp.placement import Place, Placement


class Memory:
    """Arrays that nobody needs any more, for results to be put where they were.

    Fresh memory is slow to get on the CPU backend: each 4 kB cost a page fault, which for a large
    array takes several times as long as to fill it. So a program that makes a tree takes over
    (donates) an old one; what XLA finds to be in use still it leaves alone, and allocates after
    all. Small arrays are left out: there malloc does the same at less cost. Accelerators keep a
    pool of their own, so nothing is kept there.

    Args:
        like: a tree of the shapes to come.
        device: where.

    Attributes:
        reuses: whether anything is kept here.
    """

    LARGE = 1 << 18  # bytes; malloc gives memory back to the system from some 128 kB up

    def __init__(self, like: Any, device: Place) -> None:
        self._device = device
        reuses = Placement.of(device).reuses
        leaves = jax.tree.leaves(jax.eval_shape(lambda tree: tree, like)) if reuses else []
        # Looked up once: to ask each array for its size again would take longer than to fill it.
        self._large = [number for number, leaf in enumerate(leaves) if nbytes(leaf) >= self.LARGE]
        self._shapes = [leaves[number] for number in self._large]
        self._free: deque[list[jax.Array]] = deque(maxlen=2)
        self.reuses = bool(self._shapes)

    def give(self, tree: Any) -> None:
        """Nobody will use this tree again."""
        if self.reuses:
            leaves = jax.tree.leaves(tree)
            self._free.append([leaves[number] for number in self._large])

    def take(self) -> list[jax.Array]:
        """Arrays for a program to take over; new ones if there are none."""
        if not self.reuses:
            return []
        try:
            return self._free.popleft()
        except IndexError:
            zeros = [np.zeros(shape.shape, shape.dtype) for shape in self._shapes]
            return jax.device_put(zeros, self._device, may_alias=False)
