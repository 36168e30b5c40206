"""What a worker does where its parameters are in fragments.

A clock runs on all of them and pushes one. The next clock adopts that one, by the rule of adoption,
and goes on with the others: base and progress stay what they are. So a fragment's delta is all the
progress since it was adopted last.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.fragments import adopted_in, pushed_in
from jax_ssp.layout import Delta
from jax_ssp.server.partition import Partition
from jax_ssp.server.snapshot import Message
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params, squared_norm
from jax_ssp.worker.adopt import mixed, nothing
from jax_ssp.worker.clock import statistic
from jax_ssp.worker.in_whole import InWhole
from jax_ssp.worker.program import Program
from jax_ssp.worker.replica import Own, Replica, new_own
from jax_ssp.worker.sliced import SlicedProgram


class InFragments(InWhole):
    """The programs of a worker's fragments, one for each, jitted once for all workers.

    Args:
        program: of its clocks.
        parts: how its parameters are cut.
    """

    goes_on = True

    def __init__(self, program: Program, parts: Partition) -> None:
        super().__init__(program)
        self._layout = program.layout
        self._parts = parts
        self.count = parts.num_fragments
        self._adopt = jax.jit(self._adopted, static_argnums=0)
        self._add_to_whole = jax.jit(self._added_to_whole, static_argnums=0)
        self._norm = jax.jit(self._norm_of, static_argnums=0)
        self._piece = jax.jit(parts.whole.piece, static_argnums=1)

    def on(self, program: SlicedProgram) -> InFragments:
        """The same on a slice, that of this program."""
        there = copy.copy(self)
        there._program = program
        there._adopt = program.there(self._adopt)
        there._add_to_whole = program.there(self._add_to_whole)
        there._norm, there._piece = program.there(self._norm), program.there(self._piece)
        return there

    def wanted(self, start: StartClock) -> int | None:
        return None if start.whole else adopted_in(start.clock, self.count)

    def read(
        self, start: StartClock, held: Params, own: Mapping[int, Own], factors: tuple[Any, Any]
    ) -> Params:
        wanted = self.wanted(start)
        for stamp, each in own.items():
            fragment = pushed_in(stamp, self.count)
            if wanted is None:
                held = self._add_to_whole(fragment, held, each.sent, *factors)
            elif wanted == fragment:
                held = self._program.add(held, each.sent, *factors)
        return held

    def begins(
        self, start: StartClock, before: Replica, read: Params, alpha: np.ndarray | None
    ) -> tuple[Params, Delta | None]:
        if start.whole:
            return super().begins(start, before, read, alpha)
        ahead = None if before.ahead is None else before.ahead.progress
        return self._adopt(self.wanted(start), before.base, read, before.delta, ahead, alpha)

    def pack(
        self, wire: Wire, delta: Delta, residual: list[Any], key: jax.Array, clock: int
    ) -> tuple[list[Message], Delta, list[Any]]:
        fragment = pushed_in(clock, self.count)
        here = self._parts.of(fragment) if residual else slice(0, 0)
        packed = wire.pack(delta, residual[here], key, np.int32(clock), fragment=fragment)
        payload, sent, lost = packed
        return payload, sent, [*residual[: here.start], *lost, *residual[here.stop :]]

    def own(self, sent: Delta, delta: Delta, reuses: bool) -> Own:
        return new_own(sent, None)  # the delta itself the next clock goes on with

    def rehearse(self, held: Params, moves: list[Delta], alpha: np.ndarray | None) -> Delta | None:
        progress: Delta = None
        for fragment in range(self.count):
            ahead = moves[1] if len(moves) > 1 else None
            read = self._piece(held, fragment)
            _, progress = self._adopt(fragment, held, read, moves[0], ahead, alpha)
        return progress

    def norm(self, delta: Delta, clock: int) -> jax.Array:
        return self._norm(pushed_in(clock, self.count), delta)

    def _adopted(
        self, fragment: int, old: Params, read: Params, delta: Delta, ahead: Delta, alpha: Any
    ) -> tuple[Params, Delta]:
        cut, kinds = self._parts.whole, self._layout
        piece = functools.partial(cut.piece, number=fragment)
        base = cut.put(old, fragment, read)
        moves = [delta] if ahead is None else [delta, ahead]
        if alpha is not None:
            begins = mixed(kinds, alpha, piece(old), read, *map(piece, moves))
        else:
            begins = nothing(kinds, piece(delta)) if ahead is None else piece(ahead)
        goes_on = delta if ahead is None else kinds.map(_together, old, delta, ahead)
        return base, cut.put(goes_on, fragment, begins)

    def _added_to_whole(self, fragment: int, params: Params, sent: Delta, *factors: Any) -> Params:
        cut = self._parts.whole
        read = self._layout.added(cut.piece(params, fragment), sent, *factors)
        return cut.put(params, fragment, read)

    def _norm_of(self, fragment: int, delta: Delta) -> jax.Array:
        piece = self._parts.whole.piece(delta, fragment)
        return jnp.sqrt(squared_norm(self._layout.trained(piece)))


@functools.lru_cache(maxsize=8)
def _in_fragments(program: Program, parts: Partition) -> InFragments:
    return InFragments(program, parts)


def in_parts(program: Program | SlicedProgram, parts: Partition) -> InWhole:
    """What a worker runs beside its clocks, where its parameters are cut like this."""
    if parts.num_fragments == 1:
        return InWhole(program)
    if isinstance(program, SlicedProgram):
        return _in_fragments(program.program, parts).on(program)
    return _in_fragments(program, parts)


def _together(averaged: bool, base: jax.Array, first: Any, then: Any) -> Any:
    """The progress of some steps, and of those behind them, from one base."""
    if not averaged:
        return first + then
    return statistic(base, jnp.where(jnp.isfinite(then.value), then.value, first.value))
