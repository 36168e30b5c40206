"""What shares of the server have in pieces, as a worker on the host has it: whole.

There a piece of a delta is a part of it, which is sent from where it lies. What is read is put
together in memory that is used again, once nobody refers to it any more.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jax_ssp.compression import nbytes
from jax_ssp.layout import Delta
from jax_ssp.server.packing import ALIGNMENT, aligned, laid_out
from jax_ssp.server.partition import Cut
from jax_ssp.trees import Params


class Whole:
    """Cuts trees on the host for the shares of the server, and puts pieces together.

    Args:
        shapes: of the tree.
        shares: of the server.

    Example:
        >>> whole = Whole({"w": np.zeros(3, np.float32)}, shares=2)
        >>> pieces = whole.apart({"w": np.arange(3, dtype=np.float32)})
        >>> [piece["w"].tolist() for piece in pieces], whole.together(pieces)["w"].tolist()
        ([[0.0, 1.0], [2.0]], [0.0, 1.0, 2.0])
    """

    def __init__(self, shapes: Params, shares: int) -> None:
        self._cut = Cut(shapes, shares)
        self._shapes = shapes
        self._memory = Reused(sum(aligned(nbytes(leaf)) for leaf in jax.tree.leaves(shapes)))

    def apart(self, tree: Delta) -> list[Delta]:
        """The pieces of a tree of NumPy arrays, on their memory where they lie in a row there."""
        return jax.tree.map(lambda part: np.asarray(part, order="C"), self._cut.split(tree))

    def together(self, pieces: Iterable[Params]) -> Params:
        """The tree of all pieces."""
        tree = laid_out(self._memory.take(), self._shapes)  # whose numbers are still to come
        for number, piece in enumerate(pieces):
            places = jax.tree.leaves(self._cut.piece(tree, number))
            for place, part in zip(places, jax.tree.leaves(piece), strict=True):
                if place.size:
                    np.copyto(place, part)
        return tree


class Reused:
    """Memory on the host that comes back by itself: once nothing is left that refers to it.

    XLA refers to what it reads until it has read it, so nobody has to say when that is.

    Args:
        size: bytes of a piece of it.

    Example:
        >>> memory = Reused(100)
        >>> part = memory.take()[:10]
        >>> first = part.ctypes.data
        >>> memory.take().ctypes.data == first
        False
        >>> del part
        >>> memory.take().ctypes.data % 64, memory.take().ctypes.data == first
        (0, True)
    """

    def __init__(self, size: int) -> None:
        # NumPy's arrays do not refer to one that they are a view of, but to what that one is on.
        self._kind = type("Lent", (ctypes.c_char * size,), {})
        self._size = size
        self._free: deque[Any] = deque(maxlen=2)

    def take(self) -> np.ndarray:
        """Bytes whose first lies at a multiple of `ALIGNMENT`, with anything in them."""
        if not self._free:
            self._free.append(np.empty(self._size + ALIGNMENT, np.uint8))
        memory = self._free.popleft()
        lent = self._kind.from_buffer(memory, -memory.ctypes.data % ALIGNMENT)
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return np.frombuffer(lent, np.uint8)
