"""A version as it travels to workers, and who still needs it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax

from jax_ssp.placement import Placement
from jax_ssp.server.memory import Memory

Message: TypeAlias = Any  # a piece of a tree, or what a compressor makes of it


_counting = threading.Lock()  # one for all: it is held for less time than another takes to make


class Snapshot:
    """A version as it travels to workers.

    Whoever needs it counts as a holder: whoever made it is the first, `hold` makes another, and
    each says `release` once. When the last has done so, the memory of the pieces may be used again:
    nobody may look at them any more.

    Args:
        version: its number.
        pieces: one for each device of the server, in the form that the wire gives them.
        memory: where the pieces go at the end, one for each; by default they are not used again.

    Attributes:
        version, pieces: as given.

    Example:
        >>> snapshot = Snapshot(0, [{"w": 1.0}])
        >>> reader = snapshot.hold()
        >>> snapshot.release(), reader.release()
        (None, None)
    """

    __slots__ = ("__weakref__", "_holders", "_memory", "pieces", "version")

    def __init__(self, version: int, pieces: list[Message], memory: Sequence[Memory] = ()) -> None:
        self.version = version
        self.pieces = pieces
        self._memory = memory
        self._holders = 1

    def hold(self) -> Snapshot:
        """The snapshot, for one more who needs it; any thread may ask."""
        with _counting:
            assert self._holders > 0, "nobody takes what was let go of"
            self._holders += 1
        return self

    def release(self) -> None:
        """One who needed it does so no more; any thread may say so."""
        with _counting:
            self._holders -= 1
            last = self._holders == 0
            assert self._holders >= 0, "each holder lets go once"
        if last:
            for memory, piece in zip(self._memory, self.pieces, strict=False):
                memory.give(piece)

    def keep(self) -> list[Message]:
        """The pieces, for somebody who may need them for ever: their memory is not used again."""
        self._memory = ()
        return self.pieces

    def to(self, device: jax.Device) -> list[Message]:
        """The pieces on a device, or on their way there."""
        return list(map(Placement.of(device).receive, self.pieces))
