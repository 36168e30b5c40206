"""What a worker computes, in every world: adopt, run the local steps, remember its own deltas.

Work is only dispatched here, never waited for, until `finish` asks for the oldest clock's delta: so
a device always has its next work while the host is busy with the last.

A clock that is run whole starts at its base. One that was granted ahead runs its first steps at the
end of the clock before (base + delta, as they were), and the rest at its own base plus what it
carries over: by default those first steps' progress. See `replica.py` for what a worker's state is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_ssp.controller import StartAhead, StartClock
from jax_ssp.controller.events import Token
from jax_ssp.data.feed import Feed
from jax_ssp.data.placing import kind_of
from jax_ssp.layout import Delta
from jax_ssp.server.memory import Memory
from jax_ssp.server.sliced import SlicedWire, wire_on
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.store import Store
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params, copied
from jax_ssp.worker import replica as of
from jax_ssp.worker.anew import made_ahead, renewed
from jax_ssp.worker.exchange import Exchange
from jax_ssp.worker.holding import Holding
from jax_ssp.worker.in_fragments import in_parts
from jax_ssp.worker.kept import Kept, Shapes, kept, unpacked
from jax_ssp.worker.outbox import Outbox, Push, Seat, new_dispatched
from jax_ssp.worker.program import Inputs, Program, new_inputs
from jax_ssp.worker.replica import Ahead, Part, Replica
from jax_ssp.worker.sliced import SlicedProgram, program_on
from jax_ssp.worker.waits import Waiting, for_data, no_data
from jax_ssp.worker.warmup import Warmup


class Worker:
    """One replica, and what it takes to go on with it.

    Args:
        index: number of the worker.
        seat: where it is.
        program: shared with the others.
        feed: its batches.
        exchange: its part of the plan.
        wire: how deltas and snapshots travel.
        memory: for deltas, shared by the workers of a device.
        replica: its state. Its arrays become the worker's own, and its cursor says which batches
            the feed is to pass over.

    Attributes:
        index, seat, program, feed, exchange, wire, memory: as given; recorded, device: of the seat.
        replica: its state now; see `take_out`.
        carries: whether a clock starts from what the last one left, not from what is read alone.
        armed: whether it keeps what it is before each clock that it begins.
        began: the token of the clock that it began last while it was armed, and what it kept.
    """

    def __init__(
        self,
        index: int,
        seat: Seat,
        program: Program | SlicedProgram,
        feed: Feed,
        exchange: Exchange,
        wire: Wire | SlicedWire,
        memory: Memory,
        replica: Replica,
    ) -> None:
        self.index, self.seat = index, seat
        self.recorded, self.device = seat.recorded, seat.device
        self.program = program_on(program, seat.device)
        self.exchange = exchange
        self.replica, self.feed = replica, feed
        self.wire = wire_on(wire, seat.device)
        self.memory = memory
        self._outbox = Outbox(seat, self.wire.sources)
        self._parts = in_parts(self.program, self.wire.parts)
        self._needs, self._alpha = exchange.needs, exchange.alpha
        self.carries = self._alpha is not None or self._parts.goes_on
        self._factors = functools.cache(exchange.factors)
        self._holding = Holding(self.wire, seat.device, memory, exchange.needs.undo, self.carries)
        self._spoiled: set[int] = set()  # clocks
        self._before: tuple[int, Replica] | None = None  # the clock begun last, and what it was
        self.armed = False
        self.began: tuple[Token, Kept] | None = None
        assert feed.taken <= replica.cursor, "a feed does not go back"
        feed.skip(replica.cursor - feed.taken)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the next batches of two workers must have in common to be computed together."""
        return kind_of(self.feed.peek())

    def holds(self, version: int) -> bool:
        """Whether a clock on this version needs no snapshot."""
        return self.replica.version == version and not self._parts.goes_on

    def waits(self) -> Waiting | None:
        """That it waits for its data, if it does; any thread may ask."""
        return for_data(self.index, self.feed.waiting())

    # What it is told to do.

    def has_data(self) -> bool:
        """Whether there is a batch for the next clock, or some of it is run already."""
        return self.replica.ahead is not None or self.feed.ready(1) > 0

    def ready(self, start: StartClock) -> int:
        """How many steps the clock will have: its last one may have less than it was granted."""
        return (ran := self.replica.ran) + self.feed.ready(start.local_steps - ran)

    def go_ahead(self, grant: StartAhead) -> None:
        """Dispatch the first steps of a clock behind the clock that runs still, if it has data."""
        steps = self.feed.ready(min(self.exchange.overlap, grant.local_steps))
        if not steps:
            return
        replica = self.replica
        inputs = self._inputs(replica.base, steps, grant.clock, replica.round)
        progress, state, metrics, finite = self.program.ahead(steps)(
            *inputs, replica.delta, self.memory.take()
        )
        ahead = Ahead(progress, self.program.part(steps, inputs.batch, finite, metrics))
        self.replica = of.ran_ahead(replica, ahead, state, self.feed.taken)

    def begin(self, start: StartClock, snapshot: Snapshot | None) -> None:
        """Dispatch a clock, or what is left of it.

        Args:
            start: which clock, how many steps, and which of its own deltas to add.
            snapshot: the version to adopt, and to release; None to go on with the one it holds.
        """
        steps, anew = self.ready(start), self.replica.anew
        if not steps:
            raise no_data(self.index, start.clock)
        if self.armed:
            self.began = start.token, Kept(kept(self.replica, self.carries), data=self.feed.state())
        if anew:
            self._renew(snapshot)
        before = self.replica
        base, carried = self.read(start, snapshot), None
        if self.carries or before.ahead is not None:
            base, carried = self._parts.begins(start, before, base, self._alpha)
        if carried is not None:
            self._begin_with(carried, made_ahead(before.ahead, steps, anew), start, base, steps)
            return
        del before
        inputs = self.whole(base, steps, start)
        run = self.program.clock(steps)
        delta, state, metrics, finite = run(*inputs, self.memory.take())
        parts = [self.program.part(steps, inputs.batch, finite, metrics)]
        self.dispatched(start, base, delta, state, parts)

    def _begin_with(
        self, carried: Delta, parts: list[Part], start: StartClock, base: Params, steps: int
    ) -> None:
        """Dispatch what is left of a clock that begins with some progress, made in these parts."""
        done, state = self.replica.ran, self.replica.state
        left = steps - done
        if left:
            inputs = self._inputs(base, left, start.clock, start.round)
            run = self.program.rest(done, steps)
            carried, state, metrics, finite = run(*inputs, carried)
            parts.append(self.program.part(left, inputs.batch, finite, metrics))
        elif self.program.layout.has_averaged:
            carried = self.program.entered(base, carried)
        self.dispatched(start, base, carried, state, parts)
        self._holding.let_go()

    def finish(self) -> Push:
        """Wait for the delta of the oldest clock that was begun; it is then with the server."""
        push = self._outbox.wait()
        if not push.finite:
            self.replica = self.replica._replace(anew=True)
        return push

    def cancel(self) -> None:
        """Forget the clock that was begun last: but for its batches, all is as it was before it."""
        assert self._before is not None
        clock, before = self._before
        self._before = None
        self.replica = of.cancelled(self.replica, before)
        self._outbox.forget(clock)

    def skip(self, steps: int) -> None:
        """Pass over a clock of so many steps that was not begun."""
        self.feed.skip(steps)
        self.replica = self.replica._replace(cursor=self.feed.taken)

    def spoil(self, clock: int) -> None:
        """Have no number of this clock's delta be finite."""
        self._spoiled.add(clock)

    def prefetch(self, start: StartClock) -> None:
        """Draw the next clock's batches, and start their copy to the device, if there is one."""
        ran, last = self.replica.ran, self.exchange.num_clocks
        left = start.local_steps - ran
        clock = start.clock + (1 if left else 2)
        if last is None or clock < last:
            self.feed.prefetch(left or ran)

    def take_out(self) -> Replica:
        """Its state, for another worker to go on with; this one does nothing more.

        Between two clocks: each that was begun is finished.
        """
        assert self._outbox.is_empty, "what is dispatched is this worker's to finish"
        self._holding.keep()
        return self.replica

    # For a checkpoint.

    def keep(self) -> Kept:
        """What it is between two clocks; with a clock that is dispatched and not waited for."""
        carries, undo = self.carries or self.exchange.overlap > 0, self._before
        sent = self._outbox.last
        before = None if sent is None or undo is None else (undo[0], kept(undo[1], carries))
        return Kept(kept(self.replica, carries), copied(sent), before, self.feed.state())

    def go_on(self, state: Kept) -> None:
        """Be what was kept; its arrays become the worker's own. Only before its first clock."""
        self.replica, sent, self._before, data = state
        self.feed = self.feed.at(self.replica.cursor, data)
        if sent is not None:
            self._outbox.send(sent)

    def take_up(self, store: Store, name: str, facts: Any, arrays: Mapping[str, Any]) -> None:
        """Be what was packed under a name (see `Kept.pack`), as a worker of this store."""
        shapes = Shapes.of(store.shapes, store.layout, self.wire, self.device)
        self.go_on(unpacked(name, self.replica, shapes, facts, arrays))

    @property
    def is_dispatched(self) -> bool:
        """Whether a clock is dispatched, and not waited for."""
        return not self._outbox.is_empty

    # The parts of `begin`, for whoever runs clocks of several workers in one program.

    def read(self, start: StartClock, snapshot: Snapshot | None) -> Params:
        """Adopt, and give the base of the clock."""
        if self.replica.anew:
            self._renew(snapshot)
        before = self.replica
        if self._needs.undo:
            self._before = start.clock, of.undoable(before, self.carries)
        held, version, wanted = before.held, before.version, self._parts.wanted(start)
        if snapshot is not None:
            held, version = self._holding.adopted(snapshot, wanted), snapshot.version
        self.replica, settled = of.begun(before, version, held, start.pending)
        if settled:
            self._holding.settled(settled)
        own = self.replica.own
        if not own:
            return held
        factors = self._factors(start.weight, start.num_workers)
        return self._parts.read(start, held, own, factors)

    def _renew(self, snapshot: Snapshot | None) -> None:
        """Be ready for a clock on this version, with nothing that was not finite."""
        held = self._holding.read(snapshot, self.replica.held)
        self.replica = renewed(self.replica, held, self.program, self.device)

    def whole(self, base: Params, steps: int, start: StartClock) -> Inputs:
        """What the program of a whole clock takes, which starts at its base."""
        self._holding.let_go()
        return self._inputs(base, steps, start.clock, start.round)

    def dispatched(
        self, start: StartClock, base: Params, delta: Delta, state: Any, parts: Sequence[Part]
    ) -> None:
        """Have a clock's delta sent, which may still be under way on the device."""
        before, ways, clock = self.replica, self._parts, start.clock
        if clock in self._spoiled:
            delta, parts = of.spoiled(delta, parts)
        norm = ways.norm(delta, clock) if self._needs.norm else None
        payload, sent, lost = ways.pack(self.wire, delta, before.residual, before.key, clock)
        own = before.own
        if self._needs.own:
            own = {**own, clock: ways.own(sent, delta, self.memory.reuses)}
        taken, after = self.feed.taken, start.round + start.local_steps
        self.replica = of.dispatched(before, base, delta, state, lost, own, taken, after)
        self._outbox.send(new_dispatched(clock, before.version, payload, parts, norm))

    def _inputs(self, base: Params, steps: int, clock: int, round: int) -> Inputs:
        replica, when = self.replica, np.array((clock, round), np.int32)
        batch, frozen = self.feed.take(steps), self.seat.frozen
        return new_inputs(base, replica.state, batch, replica.key, when, frozen)

    @property
    def warmup(self) -> Warmup:
        """What it will run, to be compiled before its first clock."""
        own = self.wire, self._outbox, self.memory, self.replica, self.seat.frozen
        return Warmup(self.program, self.feed, self.exchange, *own)
