"""A worker's state as a value, and what becomes of it.

Everything that a worker has of its own is in its `Replica`, and the functions here make the next
one of it: a snapshot is adopted, own deltas are settled, steps are run ahead, a clock is dispatched
or cancelled. Whoever has the value has the worker: an undo is the value as it was, a checkpoint
saves it, and a worker that comes again starts from a new one.

Of a worker's parameters, `base` is the snapshot it adopted plus those of its own deltas that the
snapshot lacks; all else is progress since then. All of these are masters (see `layout.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_ssp.controller.constructors import constructor
from jax_ssp.layout import Delta
from jax_ssp.trees import Params


class Part(NamedTuple):
    """Some steps of a clock, by one program.

    Attributes:
        steps: how many.
        samples: examples in their batches.
        tokens: in these, where the step says how to count them; else 0.
        finite: whether every number of the delta that they come to is.
        metrics: their means.
    """

    steps: int
    samples: int
    tokens: int
    finite: Any
    metrics: Mapping[str, Any]


new_part = constructor(Part)


class Ahead(NamedTuple):
    """The first steps of a clock, dispatched before its `StartClock`."""

    progress: Delta
    part: Part


class Own(NamedTuple):
    """A delta that the worker has sent, and that its snapshot may lack.

    Attributes:
        sent: as the server will read it.
        delta: the delta itself, whose memory may be used again once it is settled; None where
            nothing is gained by keeping it.
    """

    sent: Delta
    delta: Delta


new_own = constructor(Own)


class Replica(NamedTuple):
    """A worker's state between two clocks.

    Attributes:
        version: of the snapshot it holds; -1 if it is to adopt one before it goes on, as it is
            before its first clock, and when one was cancelled.
        held: the parameters of that snapshot.
        base: what `delta` is measured from; None if no later clock needs it.
        delta: of the clock dispatched last; None if no later clock needs it.
        state: of the step: the optimizer's, say.
        residual: what the wire has lost of the worker's deltas so far, in pieces; it goes with the
            next one.
        own: deltas that it has sent, and adds to snapshots that lack them, by stamp.
        ahead: what was run ahead of the next clock.
        cursor: batches of its data that it has taken, or passed over.
        key: its PRNG key; clock and step are folded in.
        round: at which its next clock would begin, if it began before it is started.
        anew: whether its last clock was not finite, so that the next begins with nothing of it.
    """

    version: int
    held: Params
    base: Params
    delta: Delta
    state: Any
    residual: list[Any]
    own: Mapping[int, Own]
    ahead: Ahead | None
    cursor: int
    key: jax.Array
    round: int = 0
    anew: bool = False

    @property
    def ran(self) -> int:
        """The steps of the next clock that are dispatched already."""
        return 0 if self.ahead is None else self.ahead.part.steps


new_replica = constructor(Replica)  # at half the cost: each clock makes two


def born(held: Params, state: Any, residual: list[Any], key: jax.Array) -> Replica:
    """A worker before its first clock."""
    return new_replica(-1, held, None, None, state, residual, {}, None, 0, key)


def begun(
    replica: Replica, version: int, held: Params, pending: Sequence[int]
) -> tuple[Replica, list[Delta]]:
    """A clock is begun: it holds this snapshot, and of its own deltas those that are pending.

    What the last clock left is in the replica as it was, for `carried`; here it makes room.

    Args:
        replica: as it was.
        version, held: of the snapshot, which may be the one that it holds already.
        pending: stamps of own deltas that the snapshot lacks.

    Returns:
        The replica; and own deltas that are settled, whose memory may be used again.

    Example:
        >>> replica = born(0.0, (), [], jax.random.key(0))
        >>> replica = replica._replace(own={0: Own(1.0, 1.0), 1: Own(2.0, 2.0)})
        >>> replica, settled = begun(replica, 3, 5.0, pending=(1,))
        >>> replica.version, list(replica.own), settled
        (3, [1], [1.0])
    """
    _, _, _, _, state, residual, own, ahead, cursor, key, round, _ = replica
    gone: list[Delta] = []
    if own and not pending:  # all are there, nearly always
        gone, own = [each.delta for each in own.values()], {}
    elif own:
        gone = [each.delta for stamp, each in own.items() if stamp not in pending]
        own = {stamp: each for stamp, each in own.items() if stamp in pending}
    # Not by `_replace`, which takes three times as long: it is done at each clock.
    begun = new_replica(version, held, None, None, state, residual, own, ahead, cursor, key, round)
    return begun, gone


def read(
    held: Params, own: Mapping[int, Own], added: Callable[..., Params], *factors: Any
) -> Params:
    """What it reads: the snapshot, and each own delta added as a merge of it alone would add it.

    Args:
        held: the snapshot.
        own: deltas that it lacks, by stamp.
        added: `(params, delta, *factors) -> params`.
        factors: of a delta: its weight, and the share of its statistics.
    """
    for each in own.values():
        held = added(held, each.sent, *factors)
    return held


def carried(
    replica: Replica, base: Params, mixed: Callable[..., Delta] | None = None
) -> Delta | None:
    """The progress that a clock from `base` begins with; None if it begins at `base` itself.

    Args:
        replica: as it was before the clock was begun.
        base: new.
        mixed: `(old, base, *moves) -> delta` for `Mix`; None to rebase, which is to carry over what
            was run ahead as it is. So it is where the last clock has left nothing to mix.
    """
    ahead = replica.ahead
    if mixed is None or replica.delta is None:
        return None if ahead is None else ahead.progress
    moves = (replica.delta,) if ahead is None else (replica.delta, ahead.progress)
    return mixed(replica.base, base, *moves)


def ran_ahead(replica: Replica, ahead: Ahead, state: Any, cursor: int) -> Replica:
    """The first steps of its next clock are dispatched."""
    version, held, base, delta, _, residual, own, _, _, *others = replica
    return new_replica(version, held, base, delta, state, residual, own, ahead, cursor, *others)


def dispatched(
    replica: Replica,
    base: Params,
    delta: Delta,
    state: Any,
    residual: list[Any],
    own: Mapping[int, Own],
    cursor: int,
    round: int,
) -> Replica:
    """A clock that was begun is dispatched whole, and its delta sent."""
    version, held, *_, key, _, _ = replica
    return new_replica(version, held, base, delta, state, residual, own, None, cursor, key, round)


def undoable(replica: Replica, carries: bool) -> Replica:
    """What to keep of a replica, so that the clock it begins now can be cancelled.

    Programs take over optimizer state and residual, so these are copied. It will adopt before it
    goes on, so it holds no snapshot; and needs what the last clock left only if it `carries` that.
    """
    state, residual = jax.tree.map(jnp.copy, (replica.state, replica.residual))
    base, delta = (replica.base, replica.delta) if carries else (None, None)
    return replica._replace(
        version=-1, held=None, base=base, delta=delta, state=state, residual=residual
    )


def cancelled(replica: Replica, before: Replica) -> Replica:
    """As it was before its clock, but for its batches, which it does not get again."""
    return before._replace(cursor=replica.cursor)


def spoiled(delta: Delta, parts: Sequence[Part]) -> tuple[Delta, list[Part]]:
    """A clock's delta and parts as they are where no number is finite."""
    *before, last = parts
    return jax.tree.map(_nan, delta), [*before, last._replace(finite=jnp.array(False))]


def _nan(leaf: Any) -> Any:
    return leaf * jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
