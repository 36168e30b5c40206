"""What a worker computes, in every world: adopt, run the local steps, remember its own deltas.

Work is only dispatched here, never waited for, until `finish` asks for the oldest clock's delta: so
a device always has its next work while the host is busy with the last.

A clock that is run whole starts at its base. One that was granted ahead runs its first steps at the
end of the clock before (base + delta, as they were), and the rest at its own base plus what it
carries over: by default those first steps' progress. See `replica.py` for what a worker's state is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_ssp.controller import StartAhead, StartClock
from jax_ssp.data.feed import Feed, kind_of
from jax_ssp.layout import Delta
from jax_ssp.placement import Placement
from jax_ssp.server.memory import Memory
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.wire import Wire
from jax_ssp.trees import Params
from jax_ssp.worker import replica as of
from jax_ssp.worker.adopt import opened
from jax_ssp.worker.exchange import Exchange
from jax_ssp.worker.outbox import Outbox, Push, Seat, new_dispatched
from jax_ssp.worker.program import Inputs, Program, part_of
from jax_ssp.worker.replica import Ahead, Part, Replica, new_own
from jax_ssp.worker.waits import Waiting, for_data
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
        index, seat, program, feed, exchange, wire, memory: as given.
        recorded, device: of the seat.
        replica: its state now; see `take_out`.
    """

    def __init__(
        self,
        index: int,
        seat: Seat,
        program: Program,
        feed: Feed,
        exchange: Exchange,
        wire: Wire,
        memory: Memory,
        replica: Replica,
    ) -> None:
        self.index = index
        self.seat = seat
        self.recorded, self.device = seat.recorded, seat.device
        self.program = program
        self.exchange = exchange
        self.replica = replica
        self.feed = feed
        self.wire = wire
        self.memory = memory
        self._on_host = Placement.of(seat.device).on_host
        self._outbox = Outbox(seat)
        alpha = exchange.alpha
        self._mixed = None if alpha is None else functools.partial(program.mixed, alpha)
        self._factors = functools.cache(exchange.factors)
        self._snapshot: Snapshot | None = None  # whose memory it reads
        self._left: Snapshot | None = None  # the one before, until nothing reads it
        self._settled: list[Delta] = []  # deltas whose memory is to be given back
        self._spoiled: set[int] = set()  # clocks
        self._before: tuple[int, Replica] | None = None  # the clock begun last, and what it was
        assert feed.taken <= replica.cursor, "a feed does not go back"
        feed.skip(replica.cursor - feed.taken)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the next batches of two workers must have in common to be computed together."""
        return kind_of(self.feed.peek())

    @property
    def carries(self) -> bool:
        """Whether a clock starts from what the last one left, not from what is read alone."""
        return self._mixed is not None

    def holds(self, version: int) -> bool:
        """Whether a clock on this version needs no snapshot."""
        return self.replica.version == version

    def waits(self) -> Waiting | None:
        """That it waits for its data, if it does; any thread may ask."""
        return for_data(self.index, self.feed.waiting())

    # What it is told to do.

    def has_data(self) -> bool:
        """Whether there is a batch for the next clock, or some of it is run already."""
        return self.replica.ran > 0 or self.feed.ready(1) > 0

    def ready(self, start: StartClock) -> int:
        """How many steps the clock will have: its last one may have less than it was granted."""
        ran = self.replica.ran
        return ran + self.feed.ready(start.local_steps - ran)

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
        ahead = Ahead(progress, part_of(steps, inputs.batch, finite, metrics))
        self.replica = of.ran_ahead(replica, ahead, state, self.feed.taken)

    def begin(self, start: StartClock, snapshot: Snapshot | None) -> None:
        """Dispatch a clock, or what is left of it.

        Args:
            start: which clock, how many steps, and which of its own deltas to add.
            snapshot: the version to adopt, and to release; None to go on with the one it holds.
        """
        steps, before = self.ready(start), self.replica
        if not steps:
            raise ValueError(
                f"`data(worker={self.index})` has ended before clock {start.clock}, which is to be "
                "run; it must give a worker the same batches each time."
            )
        base = self.read(start, snapshot)
        carried = of.carried(before, base, self._mixed)
        if carried is not None:
            parts = [] if before.ahead is None else [before.ahead.part]
            self._begin_with(carried, parts, start, base, steps)
            return
        del before
        inputs = self.whole(base, steps, start)
        run = self.program.clock(steps)
        delta, state, metrics, finite = run(*inputs, self.memory.take())
        parts = [part_of(steps, inputs.batch, finite, metrics)]
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
            parts.append(part_of(left, inputs.batch, finite, metrics))
        elif self.program.layout.has_averaged:
            carried = self.program.entered(base, carried)
        self.dispatched(start, base, carried, state, parts)

    def finish(self) -> Push:
        """Wait for the delta of the oldest clock that was begun; it is then with the server."""
        return self._outbox.wait()

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
        if self._snapshot is not None:
            self._snapshot.keep()
        return self.replica

    # The parts of `begin`, for whoever runs clocks of several workers in one program.

    def read(self, start: StartClock, snapshot: Snapshot | None) -> Params:
        """Adopt, and give the base of the clock."""
        if self.exchange.needs.undo:
            self._before = start.clock, of.undoable(self.replica, self.carries)
        before = self.replica
        held = before.held if snapshot is None else self._adopted(snapshot)
        version = before.version if snapshot is None else snapshot.version
        self.replica, self._settled = of.begun(before, version, held, start.pending)
        if not self.replica.own:
            return held
        factors = self._factors(start.weight, start.num_workers)
        return of.read(self.replica, self.program.add, *factors)

    def whole(self, base: Params, steps: int, start: StartClock) -> Inputs:
        """What the program of a whole clock takes, which starts at its base."""
        self._let_go()
        return self._inputs(base, steps, start.clock, start.round)

    def dispatched(
        self, start: StartClock, base: Params, delta: Delta, state: Any, parts: Sequence[Part]
    ) -> None:
        """Have a clock's delta sent, which may still be under way on the device."""
        if start.clock in self._spoiled:
            delta, parts = of.spoiled(delta, parts)
        before, needs = self.replica, self.exchange.needs
        norm = self.program.norm(delta) if needs.norm else None
        payload, sent, lost, own = [delta], delta, before.residual, before.own
        if self.wire.packs:
            payload, sent, lost = self.wire.pack(delta, lost, before.key, np.int32(start.clock))
            sent = delta if sent is None else sent
        if needs.own:
            # A delta that was sent as it is, or whose memory is to be given back, is kept itself.
            kept = delta if sent is delta or self.memory.reuses else None
            own = {**own, start.clock: new_own(sent, kept)}
        taken, after = self.feed.taken, start.round + start.local_steps
        self.replica = of.dispatched(before, base, delta, state, lost, own, taken, after)
        self._outbox.send(new_dispatched(start.clock, before.version, payload, parts, norm))
        self._let_go()

    def _inputs(self, base: Params, steps: int, clock: int, round: int) -> Inputs:
        key, state = self.replica.key, self.replica.state
        batch, frozen = self.feed.take(steps), self.seat.frozen
        return Inputs(base, state, batch, key, np.int32(clock), np.int32(round), frozen)

    # Memory: what was read or sent may be overwritten once the worker has let go of it.

    def _adopted(self, snapshot: Snapshot) -> Params:
        """The parameters of a snapshot, which is in use until the next one is adopted."""
        if self.exchange.needs.undo and self.carries:
            snapshot.keep()  # the worker may read it once more
        params = opened(snapshot, self.wire, self.device)
        self._left = self._snapshot
        # Where it is copied, nothing of it is in use any more.
        self._snapshot = snapshot if self._on_host else snapshot.release()
        return params

    def _let_go(self) -> None:
        """All is dispatched that reads the snapshot before, or the deltas that are settled."""
        if self._left is not None:
            self._left.release()
            self._left = None
        while self._settled:
            gone = self._settled.pop()
            if not self.exchange.needs.undo:  # else it may be needed again
                self.memory.give(gone)

    # Before the first clock.

    def compile(self) -> None:
        """Compile what it will run, for its device, by running it once; the results are dropped."""
        self._warmup.compile()

    def lower(self) -> jax.stages.Lowered:
        """The clock, traced and lowered for this device but not compiled."""
        return self._warmup.lower()

    def rehearse(self) -> dict[str, float]:
        """Compile the clock and run it; gives times (seconds) and memory (bytes)."""
        return self._warmup.rehearse()

    @property
    def _warmup(self) -> Warmup:
        wire, memory = self.wire, self.memory
        frozen = self.seat.frozen
        return Warmup(self.program, self.feed, self.exchange, wire, memory, self.replica, frozen)
