"""How deltas and snapshots travel: cut into pieces for the server's devices, and compressed.

A delta is cut, each piece compressed with error feedback, and sent to its device; a snapshot comes
back the same way and is joined again. With one piece and no compressor both travel as they are.
Both are in the masters' dtypes. What is averaged (`Statistic`s) is never compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.checks import instance, optional
from jax_ssp.compression import Compressor, compress, residual_of
from jax_ssp.layout import Delta, Layout, Statistic
from jax_ssp.server.partition import Cut
from jax_ssp.server.snapshot import Message
from jax_ssp.trees import Params, all_finite

OF_THE_WIRE = 2**32 - 1  # in the place of a clock, which steps have, so that keys differ


class Wire:
    """What workers and server do to deltas and snapshots that travel between them.

    Args:
        params: masters, or their shapes and dtypes alone.
        layout: of them.
        num_pieces: one for each device of the server.
        deltas: compressor of deltas; each worker keeps the error of its own and sends it with the
            next delta.
        snapshots: compressor of snapshots; the server keeps the error of a version and adds it to
            the next one that is sent, so that what workers read is right in the mean.
    """

    def __init__(
        self,
        params: Params,
        layout: Layout,
        num_pieces: int = 1,
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
        self._layout = layout
        self.deltas = deltas
        self.snapshots = snapshots
        self.cut = Cut(params, num_pieces)
        self.shapes: list[Params] = jax.eval_shape(self.cut.split, params)
        kept = self.shapes if deltas is not None else []
        self._residuals = [jax.eval_shape(self.nothing_lost, piece) for piece in kept]
        self.packs = num_pieces > 1 or deltas is not None
        self.unpacks = num_pieces > 1 or snapshots is not None
        self.pack = jax.jit(self._pack, donate_argnums=1)
        self.unpack = jax.jit(self._unpack)

    # On the worker.

    def residual(self) -> list[Any]:
        """What a worker has not sent yet, for each piece: nothing, before its first delta."""
        return jax.tree.map(lambda each: np.zeros(each.shape, each.dtype), self._residuals)

    def _pack(
        self, delta: Params, residual: list[Any], key: jax.Array | None = None, clock: Any = 0
    ) -> tuple[list[Message], Params, list[Any]]:
        """A delta as it travels, what the server will read if that differs, the error to keep.

        `key` is the worker's; of it a random compressor gets one for each clock and piece.
        """
        pieces = self.cut.split(delta)
        if self.deltas is None:
            return pieces, None, residual
        apart = list(map(self._layout.apart, pieces))
        keys: list[Any] = [None] * len(apart)
        if self.deltas.random:
            assert key is not None
            key = jax.random.fold_in(jax.random.fold_in(key, OF_THE_WIRE), clock)
            keys = [jax.random.fold_in(key, number) for number in range(len(apart))]
        packed = [
            compress(self.deltas, trained, rest, drawn)
            for (trained, _), rest, drawn in zip(apart, residual, keys, strict=True)
        ]
        messages, sent, residual = map(list, zip(*packed, strict=True))
        statistics = [each for _, each in apart]
        if self._layout.has_averaged:  # of a clock that the wire spoils there are none
            statistics = _valued(statistics, all_finite(sent))
            messages = list(zip(messages, statistics, strict=True))
        whole = map(self._layout.together, sent, statistics)
        return messages, self.cut.join(list(whole)), residual

    def _unpack(self, messages: Sequence[Message]) -> Params:
        """The snapshot that these messages hold."""
        return self.cut.join(list(map(self.read, messages, self.shapes)))

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
        trained, statistics = self._layout.apart(piece)
        message, _, residual = compress(self.snapshots, trained, residual)
        return (message, statistics) if self._layout.has_averaged else message, residual

    def example(self, piece: Params) -> Message:
        """A delta of a piece as it travels, any of these shapes."""
        delta = self._layout.delta_like(piece)
        if self.deltas is None:
            return delta
        trained, statistics = self._layout.apart(delta)
        drawn = (jax.random.key(0),) if self.deltas.random else ()
        message = self.deltas.encode(trained, *drawn)
        return (message, statistics) if self._layout.has_averaged else message

    def nothing_lost(self, piece: Params) -> Any:
        """The residual of a piece before anything was compressed."""
        return residual_of(self._layout.apart(piece)[0])

    def _decoded(self, compressor: Compressor, message: Message, like: Params) -> Any:
        message, statistics = message if self._layout.has_averaged else (message, [])
        trained = compressor.decode(message, self._layout.apart(like)[0])
        return self._layout.together(trained, statistics)


def _valued(pieces: list[list[Statistic]], good: jax.Array) -> list[list[Statistic]]:
    """The statistics of a delta, without a value unless it is good."""
    return [
        [each._replace(value=jnp.where(good, each.value, jnp.nan)) for each in piece]
        for piece in pieces
    ]
