"""How deltas and snapshots travel between a slice and the server: by position, never gathered.

Each piece is packed and read on the device of its position, by a program of that device alone.
What several devices hold is sent to each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.compression import compress
from jax_ssp.layout import Statistic
from jax_ssp.placement import Place, Placement
from jax_ssp.server.shards import ShardCut
from jax_ssp.server.snapshot import Message
from jax_ssp.server.wire import Wire
from jax_ssp.slices import Slice
from jax_ssp.trees import Params, all_finite


class SlicedWire:
    """A wire at the end of a worker on a slice; it has what workers ask of a `Wire`.

    Args:
        wire: that it is of.
        place: the slice.

    Attributes:
        deltas: compressor of deltas.
        parts: how they are cut.
        packs, unpacks: whether anything is to be done with deltas, and with snapshots.
        sources: where the pieces of a delta, or of a fragment of it, are made, and those of a
            snapshot are read; of what is made in another process, the host.
    """

    packs = unpacks = True

    def __init__(self, wire: Wire, place: Slice) -> None:
        assert isinstance(wire.parts, ShardCut)
        self.wire = wire
        self.deltas = wire.deltas
        self.parts = self._cut = wire.parts
        self._place = place
        self._runs = Placement.of(place).run
        self._piece = jax.jit(wire.parts.whole.piece, static_argnums=1)
        host = Placement.host().device if place.spans else None
        self._mine = [position in place.here for position in wire.parts.positions]
        self.sources = [
            place.devices[position] if mine else host
            for position, mine in zip(wire.parts.positions, self._mine, strict=True)
        ]
        self._pack_piece = jax.jit(self._packed, donate_argnums=1)
        self._valued = jax.jit(_valued)
        self._reads = [jax.jit(partial(wire.read, like=like)) for like in wire.shapes]
        self._keys: tuple[Any, list[jax.Array]] = None, []

    @property
    def messages(self) -> list[Message]:
        """What the pieces of a delta as it travels are like, with where they are."""
        return self._here(map(_placed, self.wire.messages, self._everywhere))

    def residual(self) -> list[Any]:
        """What a worker has not sent yet, for each piece: nothing, before its first delta."""
        return self._here(map(jax.device_put, self.wire.residual(), self._everywhere))

    @property
    def _everywhere(self) -> list[Any]:
        return self.sources * self.parts.num_fragments

    def _here(self, pieces: Iterable[Any]) -> list[Any]:
        """The pieces that are made in this process; None in the place of others."""
        mine = self._mine * self.parts.num_fragments
        return [piece if here else None for piece, here in zip(pieces, mine, strict=False)]

    def pack(
        self,
        delta: Any,
        residual: list[Any],
        key: jax.Array | None = None,
        clock: Any = 0,
        fragment: int = 0,
    ) -> tuple[list[Message], Params, list[Any]]:
        """See `Wire.pack`."""
        pieces = self._cut.shards(delta, self._place, fragment)
        if self.deltas is None:
            whole = self.parts.num_fragments == 1
            return pieces, None if whole else self._runs(self._piece, delta, fragment), residual
        keys = self._keys_of(key) if self.deltas.random else [None] * len(pieces)
        packed = [
            self._pack_piece(piece, rest, mine, clock, np.int32(number))
            for number, (piece, rest, mine) in enumerate(zip(pieces, residual, keys, strict=True))
        ]
        messages, sent, residual, good = map(list, zip(*packed, strict=True))
        layout = self.wire.layout
        if layout.has_averaged:  # of a clock that the wire spoils there are none
            statistics = [layout.apart(piece)[1] for piece in pieces]
            statistics = [
                self._valued(each, jax.device_put(good, device))
                for each, device in zip(statistics, self.sources, strict=True)
            ]
            messages = list(zip(messages, statistics, strict=True))
            sent = list(map(layout.together, sent, statistics))
        return messages, self._cut.assembled(sent, self._place, fragment), residual

    def _packed(
        self, piece: Any, rest: Any, key: jax.Array | None, clock: Any, number: Any
    ) -> tuple[Message, Any, Any, jax.Array]:
        assert self.deltas is not None
        trained, _ = self.wire.layout.apart(piece)
        drawn = self.wire.drawn(key, clock, number)
        message, sent, rest = compress(self.deltas, trained, rest, drawn)
        return message, sent, rest, all_finite(sent)

    def _keys_of(self, key: jax.Array | None) -> list[jax.Array]:
        """The worker's key on the device of each piece."""
        if self._keys[0] is not key:
            assert key is not None
            numbers, kind = np.asarray(jax.random.key_data(key)), jax.random.key_impl(key)
            each = [jax.device_put(numbers, device) for device in self.sources]
            self._keys = key, [jax.random.wrap_key_data(one, impl=kind) for one in each]
        return self._keys[1]

    def unpack(self, messages: Sequence[Message], fragment: int | None = None) -> Params:
        """The parameters in a snapshot, on the slice.

        Args:
            messages: of all pieces, or of those of the fragment, each where its position is.
            fragment: that is wanted; None for all.
        """
        pieces = list(messages)
        if self.wire.snapshots is not None:
            some = range(self.parts.num_fragments) if fragment is None else [fragment]
            # On the host, what one device was sent another reads as it is: say where it computes.
            pieces = list(map(jax.device_put, pieces, self.sources * len(some)))
            reads = [read for each in some for read in self._reads[self.parts.of(each)]]
            pieces = [read(piece) for read, piece in zip(reads, pieces, strict=True)]
        return self._cut.assembled(pieces, self._place, fragment)


def _placed(tree: Any, device: jax.Device) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def _valued(statistics: list[Statistic], good: list[jax.Array]) -> list[Statistic]:
    """Statistics, without a value unless all is good."""
    fine = jnp.all(jnp.stack(good))
    return [each._replace(value=jnp.where(fine, each.value, jnp.nan)) for each in statistics]


def wire_on(wire: Wire | SlicedWire, place: Place) -> Wire | SlicedWire:
    """The wire at the end of a worker there."""
    wire = wire.wire if isinstance(wire, SlicedWire) else wire
    return SlicedWire(wire, place) if isinstance(place, Slice) else wire
