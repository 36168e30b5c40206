"""Before the first clock: a worker's state is made, and what it will run is compiled."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.compression import nbytes
from jax_ssp.data.feed import Feed
from jax_ssp.layout import Delta
from jax_ssp.placement import Place, Placement
from jax_ssp.server.memory import Memory
from jax_ssp.server.sliced import SlicedWire, wire_on
from jax_ssp.server.snapshot import Snapshot
from jax_ssp.server.wire import Wire
from jax_ssp.trees import digest
from jax_ssp.worker.adopt import opened
from jax_ssp.worker.exchange import Exchange
from jax_ssp.worker.in_fragments import in_parts
from jax_ssp.worker.outbox import Outbox
from jax_ssp.worker.program import Inputs, Program
from jax_ssp.worker.replica import Replica, born
from jax_ssp.worker.sliced import SlicedProgram, program_on


def first_replica(
    program: Program | SlicedProgram,
    wire: Wire | SlicedWire,
    snapshot: Snapshot,
    key: jax.Array,
    device: Place,
) -> Replica:
    """The replica of a worker on this device or slice that has run no clock.

    Args:
        program: shared with the others.
        wire: how deltas and snapshots travel.
        snapshot: the version to shape it by. With its first clock the worker adopts its own.
        key: of the worker.
        device: where it computes.
    """
    program, wire = program_on(program, device), wire_on(wire, device)
    place = Placement.of(device)
    snapshot.keep()
    held = opened(snapshot, wire, device)
    # Committed, like all that follows: a state that is not would cost a second compilation.
    state, key = place.put((program.init(held), key))
    residual = wire.residual()
    return born(held, state, residual if wire.sources else place.put(residual), key)


class Warmup(NamedTuple):
    """The parts of a worker that say what it will run. It is run once, and changes none of them."""

    program: Program | SlicedProgram
    feed: Feed
    exchange: Exchange
    wire: Wire | SlicedWire
    outbox: Outbox
    memory: Memory
    replica: Replica
    frozen: Any = ()

    def compile(self) -> None:
        """Compile what it will run, for its device, by running it once; the results are dropped."""
        delta: Delta = None
        needs, replica = self.exchange.needs, self.replica
        for steps in self.exchange.local_steps:
            run = self.program.clock(steps)
            delta, _, _, _ = run(*self.example(steps), self.memory.take())
            self._compile_parts(steps, delta)
        parts = in_parts(self.program, self.wire.parts)
        for clock in range(self.wire.parts.num_fragments):
            if needs.norm:
                jax.block_until_ready(parts.norm(delta, clock))
            residual = jax.tree.map(jnp.copy, replica.residual)
            packed = parts.pack(self.wire, delta, residual, replica.key, clock)
            jax.block_until_ready((packed, self.outbox.rehearse(packed[0])))
        jax.block_until_ready(delta)
        self.memory.give(delta)

    def _compile_parts(self, steps: int, delta: Delta) -> None:
        """Compile the parts of a clock that starts from what another left."""
        program, exchange, held = self.program, self.exchange, self.replica.held
        first, moves = min(exchange.overlap, steps), [delta]
        if first:
            inputs = *self.example(first), delta, self.memory.take()
            moves.append(program.ahead(first)(*inputs)[0])
        parts = in_parts(program, self.wire.parts)
        progress = parts.rehearse(held, moves, exchange.alpha)
        if progress is None:
            return
        if first == steps and program.layout.has_averaged:
            progress = program.entered(held, progress)
        if first < steps:
            inputs = *self.example(steps - first), progress
            progress, _, _, _ = program.rest(first, steps)(*inputs)
        jax.block_until_ready(progress)

    def lower(self) -> jax.stages.Lowered:
        """The clock, traced and lowered for this device but not compiled."""
        steps = self.exchange.local_steps[-1]
        return self.program.clock(steps).lower(*self.example(steps), [])

    def digest(self) -> str:
        """The same for steps that compute the same, with the same frozen arrays."""
        return digest(self.lower().as_text(), *jax.tree.leaves(self.frozen))

    def rehearse(self) -> dict[str, float]:
        """Compile the clock and run it; gives times (seconds) and memory (bytes)."""
        began = time.perf_counter()
        compiled = self.lower().compile()
        compile_seconds = time.perf_counter() - began
        steps = self.exchange.local_steps[-1]
        jax.block_until_ready(compiled(*self.example(steps), []))
        inputs: Any = jax.block_until_ready((*self.example(steps), []))
        began = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        clock_seconds = time.perf_counter() - began
        memory = compiled.memory_analysis()
        return {
            "compile_seconds": compile_seconds,
            "clock_seconds": clock_seconds,
            "parameter_bytes": nbytes(self.replica.held),
            "argument_bytes": memory.argument_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        }

    def example(self, steps: int) -> Inputs:
        """What a program of so many steps would take now, with a state of its own."""
        state = jax.tree.map(jnp.copy, self.replica.state)
        batch = self.feed.example(steps)
        key, frozen = self.replica.key, self.frozen
        return Inputs(self.replica.held, state, batch, key, np.zeros(2, np.int32), frozen)
