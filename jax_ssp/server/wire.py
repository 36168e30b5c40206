"""How deltas and snapshots travel: cut into pieces for the server's devices, and compressed.

A delta is cut, each piece compressed with error feedback, and sent to its device; a snapshot comes
back the same way and is joined again. With one piece and no compressor both travel as they are.
Both are in the masters' dtypes. What is averaged (`Statistic`s) is never compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.checks import instance, optional
from jax_ssp.compression import Compressor, compress, nbytes, residual_of
from jax_ssp.layout import Delta, Layout, Statistic
from jax_ssp.server.partition import Partition, Parts
from jax_ssp.server.snapshot import Message
from jax_ssp.trees import Params, all_finite

OF_THE_WIRE = 2**32 - 1  # in the place of a clock, which steps have, so that keys differ


class Wire:
    """What workers and server do to deltas and snapshots that travel between them.

    Args:
        params: masters, or their shapes and dtypes alone.
        layout: of them.
        parts: how they are cut; by default they are not.
        deltas: compressor of deltas; each worker keeps the error of its own and sends it with the
            next delta.
        snapshots: compressor of snapshots; the server keeps the error of a version and adds it to
            the next one that is sent, so that what workers read is right in the mean.
    """

    def __init__(
        self,
        params: Params,
        layout: Layout,
        parts: Partition | None = None,
        deltas: Compressor | None = None,
        snapshots: Compressor | None = None,
    ) -> None:
        for name, wire in (("delta_wire", deltas), ("snapshot_wire", snapshots)):
            must = "a compressor such as `ssp.compression.Int8()`"
            optional(name, wire, instance, Compressor, must)
        if snapshots is not None and snapshots.random:
            raise ValueError(
                f"`snapshot_wire={snapshots!r}` draws random numbers, for which only workers have "
                "keys; use it as `delta_wire`."
            )
        self.layout = layout
        self.deltas = deltas
        self.snapshots = snapshots
        self.parts = parts = Parts(params) if parts is None else parts
        self.shapes = parts.shapes
        kept = self.shapes if deltas is not None else []
        self._residuals = [jax.eval_shape(self.nothing_lost, piece) for piece in kept]
        self.packs = parts.num_pieces > 1 or deltas is not None
        self.unpacks = parts.num_pieces > 1 or snapshots is not None
        self.pack = jax.jit(self._pack, donate_argnums=1, static_argnames="fragment")
        self.unpack = jax.jit(self._unpack)
        self.unpack_one = jax.jit(self._unpack_one, static_argnames="fragment")

    # On the worker; for one on a slice see `SlicedWire`.

    @property
    def _plain(self) -> Parts:
        assert isinstance(self.parts, Parts)
        return self.parts

    @property
    def sources(self) -> list[jax.Device] | None:
        """Where the pieces of a delta are made; None where that is the worker's device."""
        return None

    def residual(self) -> list[Any]:
        """What a worker has not sent yet, for each piece: nothing, before its first delta."""
        return jax.tree.map(lambda each: np.zeros(each.shape, each.dtype), self._residuals)

    def _pack(
        self,
        delta: Params,
        residual: list[Any],
        key: jax.Array | None = None,
        clock: Any = 0,
        fragment: int = 0,
    ) -> tuple[list[Message], Params, list[Any]]:
        """A delta as it travels, what the server will read if that differs, the error to keep.

        Args:
            delta: whole.
            residual: for each piece of the fragment.
            key: of the worker; of it a random compressor gets one for each clock and piece.
            clock: of the delta.
            fragment: that is sent.
        """
        pieces = self._plain.pieces_of(delta, fragment)
        if self.deltas is None:
            whole = self.parts.num_fragments == 1
            return pieces, None if whole else self._plain.joined(pieces, fragment), residual
        apart = list(map(self._apart, pieces))
        packed = [
            compress(self.deltas, trained, rest, self.drawn(key, clock, number))
            for number, ((trained, _), rest) in enumerate(zip(apart, residual, strict=True))
        ]
        messages, sent, residual = map(list, zip(*packed, strict=True))
        statistics = [each for _, each in apart]
        if self.layout.has_averaged:  # of a clock that the wire spoils there are none
            statistics = valued(statistics, all_finite(sent))
            messages = list(zip(messages, statistics, strict=True))
        whole = map(self._together, sent, statistics)
        return messages, self._plain.joined(list(whole), fragment), residual

    def drawn(self, key: jax.Array | None, clock: Any, number: Any) -> jax.Array | None:
        """The key of a piece of a delta, where a compressor draws; `key` is the worker's."""
        if self.deltas is None or not self.deltas.random:
            return None
        assert key is not None
        key = jax.random.fold_in(jax.random.fold_in(key, OF_THE_WIRE), clock)
        return jax.random.fold_in(key, number)

    def _unpack(self, messages: Sequence[Message]) -> Params:
        """The snapshot that these messages hold."""
        return self._plain.join(list(map(self.read, messages, self.shapes)))

    def _unpack_one(self, messages: Sequence[Message], fragment: int) -> Params:
        """The fragment of a snapshot that these messages hold."""
        shapes = self.shapes[self.parts.of(fragment)]
        return self._plain.joined(list(map(self.read, messages, shapes)), fragment)

    # On the server, for each piece.

    def opened(self, message: Message, piece: Params) -> Delta:
        """The delta of a piece that a message holds; `piece` gives shapes and dtypes."""
        return message if self.deltas is None else self._decoded(self.deltas, message, piece)

    def read(self, message: Message, like: Params) -> Params:
        """The piece of a snapshot that a message holds, as workers read it."""
        return message if self.snapshots is None else self._decoded(self.snapshots, message, like)

    def published(self, piece: Params, residual: Any) -> tuple[Message, Any]:
        """A piece of a snapshot as it travels, and the error to keep."""
        assert self.snapshots is not None
        trained, statistics = self._apart(piece)
        message, _, residual = compress(self.snapshots, trained, residual)
        return (message, statistics) if self.layout.has_averaged else message, residual

    @property
    def messages(self) -> list[Message]:
        """What the pieces of a delta as it travels are like."""
        return [jax.eval_shape(self.example, piece) for piece in self.shapes]

    @property
    def whole_bytes(self) -> list[int]:
        """Of a snapshot that is not compressed, fragment by fragment."""
        return self._bytes(self.shapes)

    @property
    def push_bytes(self) -> list[int]:
        """Of a delta as it travels, of each fragment."""
        return self._bytes(self.messages)

    @property
    def snapshot_bytes(self) -> list[int]:
        """Of a snapshot as it travels, fragment by fragment."""
        if self.snapshots is None:
            return self.whole_bytes
        lost = [jax.eval_shape(self.nothing_lost, piece) for piece in self.shapes]
        sent = map(partial(jax.eval_shape, self.published), self.shapes, lost)
        return self._bytes([message for message, _ in sent])

    def _bytes(self, pieces: Sequence[Message]) -> list[int]:
        fragments = range(self.parts.num_fragments)
        return [nbytes(pieces[self.parts.of(fragment)]) for fragment in fragments]

    def example(self, piece: Params) -> Message:
        """A delta of a piece as it travels, any of these shapes."""
        delta = self.layout.delta_like(piece)
        if self.deltas is None:
            return delta
        trained, statistics = self._apart(delta)
        drawn = (jax.random.key(0),) if self.deltas.random else ()
        message = self.deltas.encode(trained, *drawn)
        return (message, statistics) if self.layout.has_averaged else message

    def nothing_lost(self, piece: Params) -> Any:
        """The residual of a piece before anything was compressed."""
        return residual_of(self._apart(piece)[0])

    def _decoded(self, compressor: Compressor, message: Message, like: Params) -> Any:
        message, statistics = message if self.layout.has_averaged else (message, [])
        shapes, _ = jax.eval_shape(self._apart, like)
        return self._together(compressor.decode(message, shapes), statistics)

    # Compressors see the arrays that the user has, not those that lie in buckets.

    def _apart(self, tree: Delta) -> tuple[Any, list[Any]]:
        """The user's arrays of a piece: those that are trained, and the others."""
        return self.layout.user.apart(self.layout.unpacked(tree))

    def _together(self, trained: Any, averaged: Sequence[Any]) -> Delta:
        """The piece that `_apart` took apart."""
        return self.layout.packed(self.layout.user.together(trained, averaged))


def valued(pieces: list[list[Statistic]], good: jax.Array) -> list[list[Statistic]]:
    """The statistics of a delta, without a value unless it is good."""
    return [
        [each._replace(value=jnp.where(good, each.value, jnp.nan)) for each in piece]
        for piece in pieces
    ]
