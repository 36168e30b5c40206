"""A worker's state for a checkpoint: what it was before the clock it runs, as facts and arrays.

A running clock takes over the arrays that it begins with, so somebody who wants them copies them
before. Whoever goes on with the state begins the clock again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_ssp.controller.fragments import pushed_in
from jax_ssp.layout import Layout
from jax_ssp.leaves import named, tree_named
from jax_ssp.placement import Place
from jax_ssp.records import within
from jax_ssp.server.partition import Partition
from jax_ssp.server.sliced import SlicedWire
from jax_ssp.server.wire import Wire
from jax_ssp.slices import Slice
from jax_ssp.trees import copied
from jax_ssp.worker.outbox import Dispatched
from jax_ssp.worker.replica import Ahead, Own, Part, Replica


class Kept(NamedTuple):
    """What a worker was at a moment between two clocks, in arrays that nobody takes over.

    Attributes:
        replica: its state; whoever goes on adopts a snapshot first.
        sent: the clock behind it that is dispatched, and not waited for; None if there is none.
        before: that clock, and the state before it, where it may be cancelled still.
        data: where it stands in its data; see `Feed.state`.
    """

    replica: Replica
    sent: Dispatched | None = None
    before: tuple[int, Replica] | None = None
    data: Mapping[str, Any] | None = None

    def pack(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Facts for JSON and arrays by name, which say all of it."""
        return packed(name, self)


def kept(replica: Replica, carries: bool) -> Replica:
    """A replica in arrays of its own.

    Args:
        replica: of a worker between two clocks.
        carries: whether its next clock may begin with what the last has left.
    """
    base, delta = (replica.base, replica.delta) if carries else (None, None)
    own = {stamp: Own(each.sent, None) for stamp, each in replica.own.items()}
    replica = replica._replace(version=-1, held=None, base=base, delta=delta, own=own)
    return copied(replica)


class Shapes(NamedTuple):
    """What the trees of a worker's state are like.

    Attributes:
        params: masters.
        delta: a delta of them.
        messages: a delta as it travels, in pieces.
        parts: how it is cut.
        place: the worker's device; None for a slice, where the others say how they lie.
    """

    params: Any
    delta: Any
    messages: list[Any]
    parts: Partition
    place: jax.Device | None

    @classmethod
    def of(cls, params: Any, layout: Layout, wire: Wire | SlicedWire, device: Place) -> Shapes:
        """Those of masters of these shapes, of a worker there."""
        if isinstance(device, Slice):
            params = _lying(params, device)
            return cls(params, layout.delta_like(params), wire.messages, wire.parts, None)
        delta = jax.eval_shape(layout.delta_like, params)
        return cls(params, delta, wire.messages, wire.parts, device)

    def sent(self, clock: int) -> Any:
        """What the server reads of a clock."""
        parts = self.parts
        if parts.num_fragments == 1:
            return self.delta
        return parts.whole.like(pushed_in(clock, parts.num_fragments), self.delta)

    def message(self, clock: int) -> list[Any]:
        """A clock's delta as it travels."""
        return self.messages[self.parts.pushed(clock)]


def _lying(params: Any, there: Slice) -> Any:
    """Shapes of parameters, with how they lie on a slice."""

    def leaf(shape: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(leaf, params, there.tree(params))


def packed(name: str, state: Kept) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts for JSON and arrays by name, which say all of it."""
    facts, arrays = _packed_replica(name, state.replica)
    facts["data"] = state.data
    if state.sent is not None:
        sent = state.sent
        facts["sent"] = {"clock": sent.clock, "version": sent.version}
        facts["sent"]["parts"] = [
            _packed_part(f"{name}sent/part/{number}/", part, arrays)
            for number, part in enumerate(sent.parts)
        ]
        arrays |= named(f"{name}sent/payload", sent.payload)
        if sent.norm is not None:
            arrays[f"{name}sent/norm"] = sent.norm
    if state.before is not None:
        clock, before = state.before
        facts["before"], more = _packed_replica(f"{name}before/", before)
        facts["before"]["clock"] = clock
        arrays |= more
    return facts, arrays


def unpacked(
    name: str,
    fresh: Replica,
    shapes: Shapes,
    facts: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> Kept:
    """What was packed.

    Args:
        name: that it was packed under.
        fresh: the worker before its first clock, for the structure of its state.
        shapes: of what it deals in.
        facts, arrays: those that were packed.

    Raises:
        ValueError: if they are not those of such a worker.
    """
    place = shapes.place
    replica = _unpacked_replica(name, fresh, shapes, facts, arrays)
    sent = before = None
    if "sent" in facts:
        about = facts["sent"]
        parts = [
            _unpacked_part(f"{name}sent/part/{number}/", each, arrays, place)
            for number, each in enumerate(about["parts"])
        ]
        message = shapes.message(about["clock"])
        payload = tree_named(f"{name}sent/payload", message, arrays, place)
        norm = arrays.get(f"{name}sent/norm")
        sent = Dispatched(about["clock"], about["version"], payload, parts, norm)
    if "before" in facts:
        about = facts["before"]
        state = _unpacked_replica(f"{name}before/", fresh, shapes, about, arrays)
        before = about["clock"], state
    return Kept(replica, sent, before, facts["data"])


def _packed_replica(name: str, replica: Replica) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = named(f"{name}state", replica.state)
    arrays |= named(f"{name}residual", replica.residual) | named(f"{name}key", replica.key)
    facts: dict[str, Any] = {"cursor": replica.cursor, "round": replica.round}
    facts["anew"] = replica.anew
    facts["own"] = list(replica.own)
    for stamp, own in replica.own.items():
        arrays |= named(f"{name}own/{stamp}", own.sent)
    facts["goes_on"] = replica.base is not None and replica.delta is not None
    if facts["goes_on"]:
        arrays |= named(f"{name}base", replica.base) | named(f"{name}delta", replica.delta)
    if replica.ahead is not None:
        facts["ahead"] = _packed_part(f"{name}ahead/", replica.ahead.part, arrays)
        arrays |= named(f"{name}progress", replica.ahead.progress)
    return facts, arrays


def _unpacked_replica(
    name: str,
    fresh: Replica,
    shapes: Shapes,
    facts: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> Replica:
    place = shapes.place

    def tree(part: str, like: Any) -> Any:
        return tree_named(name + part, like, arrays, place)

    sent = {stamp: tree(f"own/{stamp}", shapes.sent(stamp)) for stamp in facts["own"]}
    whole = shapes.parts.num_fragments == 1
    goes_on, ahead = facts["goes_on"], None
    if "ahead" in facts:
        part = _unpacked_part(f"{name}ahead/", facts["ahead"], arrays, place)
        ahead = Ahead(tree("progress", shapes.delta), part)
    return Replica(
        version=-1,
        held=fresh.held,
        base=tree("base", shapes.params) if goes_on else None,
        delta=tree("delta", shapes.delta) if goes_on else None,
        state=tree("state", fresh.state),
        residual=tree("residual", fresh.residual),
        # Their own memory is used again, once they are settled, where it is that of a whole delta.
        own={stamp: Own(each, each if whole else None) for stamp, each in sent.items()},
        ahead=ahead,
        cursor=facts["cursor"],
        key=tree("key", fresh.key),
        round=facts["round"],
        anew=facts["anew"],
    )


def _packed_part(name: str, part: Part, arrays: dict[str, Any]) -> dict[str, Any]:
    arrays |= {f"{name}finite": part.finite}
    arrays |= {f"{name}metric/{metric}": value for metric, value in part.metrics.items()}
    return {"steps": part.steps, "samples": part.samples, "tokens": part.tokens}


def _unpacked_part(
    name: str, facts: Mapping[str, Any], arrays: Mapping[str, Any], place: Any
) -> Part:
    finite, metrics = arrays[f"{name}finite"], within(f"{name}metric/", arrays)
    finite, metrics = jax.device_put((np.asarray(finite), metrics), place)
    return Part(facts["steps"], facts["samples"], facts["tokens"], finite, metrics)
