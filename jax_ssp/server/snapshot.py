"""A version as it travels to workers, and who still needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax

from jax_ssp.placement import Placement
from jax_ssp.server.flat import Flat
from jax_ssp.server.memory import Memory

Message: TypeAlias = Any  # a piece of a tree, or what a compressor makes of it


ALL = slice(None)

# One for all each: they are held for less time than others take to make.
_counting = threading.Lock()
_laying_out = threading.Lock()


class Snapshot:
    """A version as it travels to workers.

    Whoever needs it counts as a holder: whoever made it is the first, `hold` makes another, and
    each says `release` once. When the last has done so, the memory of the pieces may be used again:
    nobody may look at them any more.

    Args:
        version: its number.
        pieces: one for each device of the server, in the form that the wire gives them.
        memory: where the pieces go at the end, one for each; without, they are not used again.
        before: the version before, if it may share pieces with this one.
        places: where the pieces are; by default each is asked, as often as somebody reads it.

    Attributes:
        version, pieces: as given.

    Example:
        >>> snapshot = Snapshot(0, [{"w": 1.0}])
        >>> reader = snapshot.hold()
        >>> snapshot.release(), reader.release()
        (None, None)
    """

    __slots__ = ("__weakref__", "_flat", "_holders", "_places", "_uses", "pieces", "version")

    def __init__(
        self,
        version: int,
        pieces: list[Message],
        memory: Sequence[Memory] = (),
        before: Snapshot | None = None,
        places: Sequence[Placement] = (),
    ) -> None:
        self.version = version
        self.pieces = pieces
        self._uses = [_Use(each) for each in memory]
        self._places = places
        self._holders = 1
        self._flat: dict[int, Flat] = {}  # those that were sent somewhere
        if before is not None:
            self._share(before)

    def _share(self, before: Snapshot) -> None:
        with _counting:
            for number, use in enumerate(before._uses):
                if self.pieces[number] is before.pieces[number]:
                    use.versions += 1
                    self._uses[number] = use

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
            if self._holders > 0:
                return
            assert self._holders == 0, "each holder lets go once"
            self._flat = {}
            free = self._unused() if self._uses else ()
        for memory, piece in free:
            memory.give(piece)

    def _unused(self) -> list[tuple[Memory, Message]]:
        """The pieces that no other version has, and where they go; all that is held is counted."""
        free: list[tuple[Memory, Message]] = []
        for use, piece in zip(self._uses, self.pieces, strict=True):
            use.versions -= 1
            if use.versions == 0 and use.memory is not None:
                free.append((use.memory, piece))
        return free

    def keep(self) -> list[Message]:
        """The pieces, for somebody who may need them for ever: their memory is not used again."""
        for use in self._uses:
            use.memory = None
        return self.pieces

    def to(self, devices: Iterable[jax.Device], which: slice = ALL) -> list[Message]:
        """The pieces, all or those which are wanted, each on its device or on the way there."""
        numbers = range(len(self.pieces))[which]
        there = zip(numbers, map(Placement.of, devices), strict=False)
        return [self.brought(number, place) for number, place in there]

    def brought(self, number: int, place: Placement) -> Message:
        """A piece there, or on its way; what is copied is laid out once for all who ask."""
        piece = self.pieces[number]
        source = self._places[number] if self._places else Placement.holding(piece)
        if source is place or source == place:  # the same one, nearly always
            return piece
        if source is None or source.shares_memory(place):
            return place.receive(piece)
        with _laying_out:
            flat = self._flat.get(number)
            if flat is None:
                flat = self._flat[number] = Flat.of(piece, source)
        return flat.received(place)


@dataclass(slots=True)
class _Use:
    """A piece's memory, and how many versions have that piece.

    Attributes:
        memory: where it goes at the end; None if it is not to be used again.
        versions: that are not let go of yet.
    """

    memory: Memory | None
    versions: int = 1
