"""A worker in the place of one that was lost, or of one that was not there yet.

By default it begins as if it had never run a clock. Where a live worker gives its state, it goes on
from what that one has of its own: its local progress, and the state of its step. What the donor has
pushed is not its own, and is taken off the progress where the server has not merged it yet: else
that would be merged twice. Its number, key, place and data are those of the one it replaces.

Workers in other processes have these functions too; whose place it is says which are called.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import singledispatch

import jax

from jax_ssp.controller.fragments import pushed_in
from jax_ssp.data.feed import Feed
from jax_ssp.layout import Delta
from jax_ssp.placement import Placement
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.trees import Params, as_float
from jax_ssp.worker.replica import Replica, born
from jax_ssp.worker.warmup import first_replica
from jax_ssp.worker.worker import Worker


@singledispatch
def successor(lost: Worker, feed: Feed, snapshot: Snapshot) -> Worker:
    """The worker that goes on where one was lost, as if it had never run a clock.

    Nothing of the lost one's state is left: the state of its step is made of the snapshot that it
    adopts with its first clock. But its number, its place, its key and its data are the same; so
    what it computes follows from the tape.

    Args:
        lost: of which nothing is touched that its thread, should it go on, may change.
        feed: its data, from the first batch of the clock in which it was lost.
        snapshot: of its first clock. It is not released here.
    """
    key = lost.replica.key
    return placed(lost, feed, first_replica(lost.program, lost.wire, snapshot, key, lost.device))


@singledispatch
def placed(lost: Worker, feed: Feed, replica: Replica) -> Worker:
    """A worker in the place of another, with this state and this data."""
    return _like(lost, lost.index, feed, replica)


def numbered(unused: Worker, index: int, feed: Feed, key: jax.Array) -> Worker:
    """A worker that has run no clock, under another number: with that one's data and key.

    Nothing is traced or compiled for it that the other has run.
    """
    key = Placement.of(unused.device).put(key)
    return _like(unused, index, feed, unused.replica._replace(key=key))


def _like(other: Worker, index: int, feed: Feed, replica: Replica) -> Worker:
    return Worker(
        index,
        other.seat,
        other.program,
        feed,
        other.exchange,
        other.wire,
        other.memory,
        replica._replace(cursor=feed.taken),
    )


@singledispatch
def inherited(lost: Worker, donor: Replica, waiting: Collection[int], weight: float) -> Replica:
    """The state of a worker in the place of another, from that of a live one.

    Args:
        lost: whose place it is; of which nothing is touched that its thread may change.
        donor: the state of the live one between two clocks. Its arrays remain its own.
        waiting: stamps of the donor's deltas that wait at the server.
        weight: with which each would be merged alone.

    Returns:
        The state; it adopts a snapshot with its first clock, of which its progress is measured.
    """
    place = Placement.of(lost.device)
    carries = lost.carries and donor.base is not None and donor.delta is not None
    moves, own = [], {}
    if carries:
        moves = [donor.delta] if donor.ahead is None else [donor.delta, donor.ahead.progress]
        own = {stamp: each.sent for stamp, each in donor.own.items() if stamp in waiting}
    base = donor.base if carries else None
    mine = place.put((base, moves, own, donor.state), may_alias=False)
    base, moves, own, state = mine
    if len(moves) > 1:  # all that it has run since its base, as one delta
        moves = [lost.program.mixed(as_float(1.0), base, base, *moves)]
    for stamp, sent in own.items():
        base = place.run(_taken_off, lost, base, sent, stamp, weight)
    residual = lost.wire.residual()
    residual = residual if lost.wire.sources else place.put(residual)
    replica = born(None, state, residual, place.put(lost.replica.key))
    return replica._replace(base=base, delta=moves[0] if moves else None, anew=donor.anew)


def _taken_off(lost: Worker, base: Params, sent: Delta, stamp: int, weight: float) -> Params:
    """The parameters without a delta, or a fragment of one; what is only averaged stays."""
    parts, kinds = lost.wire.parts, lost.program.layout

    def leaf(averaged: bool, base: jax.Array, sent: jax.Array) -> jax.Array:
        return base if averaged else base - as_float(weight).astype(base.dtype) * sent

    if parts.num_fragments == 1:
        return kinds.map(leaf, base, sent)
    fragment = pushed_in(stamp, parts.num_fragments)
    piece = parts.whole.piece(base, fragment)
    return parts.whole.put(base, fragment, kinds.map(leaf, piece, sent))
