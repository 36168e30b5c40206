"""What a store holds, for a checkpoint: as a value, and as facts and arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from jax_ssp.controller.codec import as_json, from_json
from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.events import DeltaReady
from jax_ssp.leaves import named, tree_named
from jax_ssp.records import from_hex, in_hex
from jax_ssp.server.partition import Partition
from jax_ssp.server.snapshot import Message
from jax_ssp.trees import Params


class Pushed(NamedTuple):
    """A delta that is not settled.

    Attributes:
        event: that reported it.
        payload: as it came, in pieces.
        metrics: of its clock.
    """

    event: DeltaReady
    payload: list[Message]
    metrics: Mapping[str, float]


class Granted(NamedTuple):
    """A clock whose delta is not settled.

    Attributes:
        start: what was granted.
        base: what its delta is measured from, in pieces, where that is asked for.
    """

    start: StartClock
    base: list[Params] | None


class StoreState(NamedTuple):
    """All that a store holds between two events.

    Attributes:
        version: the newest.
        pieces: of the newest version.
        states: of the transforms, for each piece.
        residuals: what the snapshots' wire has lost, for each piece.
        sent: pieces of the newest version as they travel, by number, those that are compressed
            already; nothing where that version is among the snapshots.
        snapshots: versions that somebody needs, as they travel.
        pushed: deltas that are not settled.
        granted: clocks whose deltas are not settled.
        last: the version that each worker was granted last.
        own: pushes of a worker that bases are made of, by worker and stamp.
        bases: what the last clock of a worker began with, in pieces, where that is asked for.
    """

    version: int
    pieces: list[Params]
    states: list[Any]
    residuals: list[Any]
    sent: dict[int, Message]
    snapshots: dict[int, list[Message]]
    pushed: list[Pushed]
    granted: list[Granted]
    last: dict[int, int]
    own: dict[int, dict[int, list[Message]]]
    bases: dict[int, list[Params]]


def packed(state: StoreState) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts for JSON and arrays by name, which say all of it."""
    arrays = named("pieces", state.pieces) | named("states", state.states)
    arrays |= named("residuals", state.residuals)
    for number, piece in state.sent.items():
        arrays |= named(f"sent/{number}", piece)
    for version, pieces in state.snapshots.items():
        arrays |= named(f"snapshot/{version}", pieces)
    for number, push in enumerate(state.pushed):
        arrays |= named(f"pushed/{number}", push.payload)
    for number, granted in enumerate(state.granted):
        arrays |= named(f"base/{number}", granted.base)
    for worker, pushes in state.own.items():
        for stamp, payload in pushes.items():
            arrays |= named(f"own/{worker}/{stamp}", payload)
    for worker, pieces in state.bases.items():
        arrays |= named(f"last/{worker}", pieces)
    facts = {
        "version": state.version,
        "sent": list(state.sent),
        "snapshots": list(state.snapshots),
        "pushed": [[as_json(push.event), in_hex(push.metrics)] for push in state.pushed],
        "granted": [[as_json(each.start), each.base is not None] for each in state.granted],
        "last": list(state.last.items()),
        "own": [[worker, list(pushes)] for worker, pushes in state.own.items()],
        "bases": list(state.bases),
    }
    return facts, arrays


class Like(NamedTuple):
    """What the trees of a store's state are like, for each piece, and where they belong.

    Attributes:
        pieces, states, residuals: of the store before its first merge.
        snapshot: as it travels.
        payload: a delta as it travels.
        parts: how they are cut.
        places: the device of each piece.
    """

    pieces: list[Params]
    states: list[Any]
    residuals: list[Any]
    snapshot: list[Message]
    payload: list[Message]
    parts: Partition
    places: tuple[jax.Device, ...]


def unpacked(like: Like, facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> StoreState:
    """What was packed.

    Raises:
        ValueError: if it is not what such a store has packed.
    """

    def trees(name: str, of: list[Any]) -> list[Any]:
        return [
            tree_named(f"{name}[{number}]", each, arrays, place)
            for number, (each, place) in enumerate(zip(of, like.places, strict=False))
        ]

    def payload(name: str, stamp: int) -> list[Message]:
        return trees(name, like.payload[like.parts.pushed(stamp)])

    events = [(from_json(event), from_hex(metrics)) for event, metrics in facts["pushed"]]
    pushed = [
        Pushed(event, payload(f"pushed/{number}", event.clock), metrics)
        for number, (event, metrics) in enumerate(events)
    ]
    granted = [
        Granted(from_json(start), trees(f"base/{number}", like.pieces) if has_base else None)
        for number, (start, has_base) in enumerate(facts["granted"])
    ]
    return StoreState(
        version=facts["version"],
        pieces=trees("pieces", like.pieces),
        states=trees("states", like.states),
        residuals=trees("residuals", like.residuals),
        sent={
            number: tree_named(f"sent/{number}", like.snapshot[number], arrays, like.places[number])
            for number in facts.get("sent", ())  # older checkpoints do not have it
        },
        snapshots={each: trees(f"snapshot/{each}", like.snapshot) for each in facts["snapshots"]},
        pushed=pushed,
        granted=granted,
        last=dict(facts["last"]),
        own={
            worker: {stamp: payload(f"own/{worker}/{stamp}", stamp) for stamp in stamps}
            for worker, stamps in facts["own"]
        },
        bases={worker: trees(f"last/{worker}", like.pieces) for worker in facts["bases"]},
    )
