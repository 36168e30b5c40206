"""A version of the parameters in Ray's object store, for whoever reads it in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax_ssp.runtimes.ray.calls import first_line, lost_share
from jax_ssp.server.snapshot import Message, Snapshot


class Pieces(Sequence[Message]):
    """Pieces that are fetched when they are read; on their machine they are not copied.

    Args:
        references: to each of them.
    """

    def __init__(self, references: Sequence[Any]) -> None:
        self.references = references
        self._here: dict[int, Message] = {}

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, number: Any) -> Any:
        import ray

        if isinstance(number, slice):
            return [self[each] for each in range(len(self))[number]]
        if number not in self._here:
            try:
                self._here[number] = ray.get(self.references[number])
            except ray.exceptions.RayError as error:
                raise lost_share(f"a version cannot be read: {first_line(error)}") from error
        return self._here[number]


class Fetched(Snapshot):
    """A snapshot whose pieces are in the object store.

    Their memory is that store's: it is never used again here.
    """

    def __init__(self, version: int, pieces: Pieces) -> None:
        super().__init__(version, pieces)  # pyright: ignore[reportArgumentType]

    @property
    def references(self) -> Sequence[Any]:
        """To the pieces."""
        assert isinstance(self.pieces, Pieces)
        return self.pieces.references
