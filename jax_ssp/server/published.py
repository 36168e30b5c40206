"""The newest version as it travels: each piece is compressed once, whoever reads it and how often.

A merge of one fragment leaves the pieces of the others as they are. They go on travelling as they
were compressed: what was lost of them is lost once, and comes with the next version of the piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params


class Published:
    """Versions as a wire sends them.

    Args:
        wire: compresses snapshots, or leaves them as they are.
        pieces: of the version before the first merge.

    Attributes:
        residuals: what the wire has lost, for each piece; nothing where it does not compress.
        messages: of the pieces that are compressed and have not changed since, by number.

    Example:
        >>> from jax_ssp.compression import Int8
        >>> from jax_ssp.layout import Layout
        >>> piece = {"w": jnp.float32([0.5, 1.0])}
        >>> published = Published(Wire(piece, Layout.of(piece), snapshots=Int8()), [piece])
        >>> first = published.version(Snapshot(0, [piece]))
        >>> again = published.version(Snapshot(1, [piece]))  # which has merged something else
        >>> first.pieces[0] is again.pieces[0]
        True
    """

    def __init__(self, wire: Wire, pieces: Sequence[Params]) -> None:
        self._wire = wire
        self._compress = jax.jit(wire.published, donate_argnums=1)
        kept = [] if wire.snapshots is None else pieces
        self.residuals = list(map(wire.nothing_lost, kept))
        self.messages: dict[int, Message] = {}

    def changed(self, pieces: slice) -> None:
        """These pieces have become others."""
        for number in range(pieces.start, pieces.stop):
            self.messages.pop(number, None)

    def version(self, newest: Snapshot) -> Snapshot:
        """The newest version as it travels, for one who needs it."""
        if self._wire.snapshots is None:
            return newest.hold()
        for number, piece in enumerate(newest.pieces):
            if number not in self.messages:
                residual = self.residuals[number]
                self.messages[number], self.residuals[number] = self._compress(piece, residual)
        return Snapshot(newest.version, [self.messages[n] for n in range(len(newest.pieces))])

    def like(self, pieces: Sequence[Params]) -> Sequence[Message]:
        """The shapes of a version as it travels."""
        if self._wire.snapshots is None:
            return pieces
        both = zip(pieces, self.residuals, strict=True)
        return [jax.eval_shape(self._wire.published, *each)[0] for each in both]

    def go_on(
        self, residuals: list[Message], messages: Mapping[int, Message], held: Snapshot | None
    ) -> None:
        """Take over what was saved.

        Args:
            residuals, messages: the attributes, as they were.
            held: the newest version as it travels, where it was kept as a whole.
        """
        self.residuals = residuals
        self.messages = dict(messages)
        if self._wire.snapshots is not None and held is not None:
            self.messages = dict(enumerate(held.pieces))

    def compile(self, pieces: Sequence[Params]) -> None:
        """Compile what compresses these by running it once; nothing is kept of it."""
        residuals = jax.tree.map(jnp.copy, self.residuals)
        jax.block_until_ready(list(map(self._compress, pieces, residuals)))
