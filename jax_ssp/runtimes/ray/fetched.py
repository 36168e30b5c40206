"""A version of the parameters in Ray's object store, for whoever reads it in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from jax_ssp.runtimes.ray.calls import first_line, lost_share
from jax_ssp.server.snapshot import Message, Snapshot


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """What Ray finds wrong in here is that a piece of a version is no more."""
    from ray.exceptions import ObjectLostError, RayActorError

    try:
        yield
    except (RayActorError, ObjectLostError) as error:
        raise lost_share(f"a version cannot be read: {first_line(error)}") from error


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
            with reading():
                self._here[number] = ray.get(self.references[number])
        return self._here[number]


class Fetched(Snapshot):
    """A snapshot whose pieces are in the object store.

    Their memory is that store's: it is never used again here.
    """

    def __init__(self, version: int, pieces: Sequence[Message]) -> None:
        super().__init__(version, pieces)  # pyright: ignore[reportArgumentType]
