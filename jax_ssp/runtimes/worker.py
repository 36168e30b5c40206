"""What a worker computes, in every world: adopt, run the local steps, remember its own deltas."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.controller import StartClock
from jax_ssp.data import Feed
from jax_ssp.runtimes.base import Push, Snapshot
from jax_ssp.server import Weight, as_weight, weighted
from jax_ssp.steps import Params, Step, averaged_leaves, clock_fn
from jax_ssp.tape import weight_of


class Program:
    """The jitted functions that all workers of a run share: a clock for each number of steps."""

    def __init__(self, step: Step) -> None:
        self.init = jax.jit(step.init)
        self.add = jax.jit(self._added)
        self._step = step
        self._clocks: dict[int, Any] = {}

    def clock(self, steps: int) -> Any:
        """The jitted clock of this many local steps; it takes its worker state over."""
        if steps not in self._clocks:
            self._clocks[steps] = jax.jit(clock_fn(self._step, steps), donate_argnums=1)
        return self._clocks[steps]

    def _added(self, params: Params, delta: Params, weight: jax.Array, share: jax.Array) -> Params:
        """Parameters plus an own delta, with the weight that the server will give it."""

        def add(averaged: bool, param: jax.Array, delta: jax.Array) -> jax.Array:
            return param + weighted(delta, share if averaged else weight).astype(param.dtype)

        return jax.tree.map(add, averaged_leaves(self._step, params), params, delta)


@functools.lru_cache(maxsize=8)
def _kept(step: Step) -> Program:
    return Program(step)


def program_of(step: Step) -> Program:
    """The program of a step, the same one as the last time if that is not long ago."""
    try:
        return _kept(step)
    except TypeError:  # a step that cannot be hashed
        return Program(step)


class Worker:
    """One replica: a device, a worker state, a feed of batches.

    Args:
        index: number of the worker.
        program: shared with the others.
        device: where it computes.
        params: the first version, to shape the worker state.
        feed: its batches.
        key: the run's PRNG key; the worker folds in itself, the clock and the step.
        weight: the server's, for its own deltas that are not merged yet.
        push_to: the server's device.
        local_steps: H, the run's default.
        num_clocks: clocks it will run, if that is known; no batch is drawn ahead after the last.
    """

    def __init__(
        self,
        index: int,
        program: Program,
        device: jax.Device,
        params: Params,
        feed: Feed,
        key: jax.Array,
        weight: Weight,
        push_to: jax.Device,
        local_steps: int,
        num_clocks: int | None = None,
    ) -> None:
        self.index = index
        self.device = device
        self._program = program
        self._feed = feed
        self._weight = weight
        self._push_to = push_to
        self._local_steps = local_steps
        self._num_clocks = num_clocks
        self._version = 0
        self._key = jax.device_put(key, device)
        self._held: Params = jax.device_put(params, device)
        # Committed, like all that follows: a state that is not would cost a second compilation.
        self._state = jax.device_put(program.init(self._held), device)
        self._own: dict[int, Params] = {}

    def compile(self) -> None:
        """Compile the clock for this device by running it once; the result is thrown away."""
        clock = self._program.clock(self._local_steps)
        jax.block_until_ready(clock(*self._example()))

    def lower(self) -> jax.stages.Lowered:
        """The clock, traced and lowered for this device but not compiled."""
        return self._program.clock(self._local_steps).lower(*self._example())

    def rehearse(self) -> dict[str, float]:
        """Compile the clock and run it; gives times (seconds) and memory (bytes)."""
        began = time.perf_counter()
        compiled = self.lower().compile()
        compile_seconds = time.perf_counter() - began
        jax.block_until_ready(compiled(*self._example()))
        example = jax.block_until_ready(self._example())
        began = time.perf_counter()
        jax.block_until_ready(compiled(*example))
        clock_seconds = time.perf_counter() - began
        memory = compiled.memory_analysis()
        return {
            "compile_seconds": compile_seconds,
            "clock_seconds": clock_seconds,
            "parameter_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(self._held)),
            "argument_bytes": memory.argument_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        }

    def _example(self) -> tuple[Any, ...]:
        batch = self._feed.peek()
        steps = self._local_steps
        if steps > 1:
            batch = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * steps), batch)
        batch = jax.device_put(batch, self.device)
        state = jax.tree.map(jnp.copy, self._state)  # the clock takes its state over
        return self._held, state, batch, self._key, np.int32(self.index), np.int32(0)

    def run(self, start: StartClock, snapshot: Snapshot | None) -> Push:
        """Run one clock to its end.

        Args:
            start: which clock, how many steps, and which of its own deltas to add.
            snapshot: the version to adopt; None to go on with the one it holds.

        Returns:
            The delta, computed and on its way to the server's device, and the metrics.
        """
        if snapshot is not None:
            self._version = snapshot.version
            self._held = jax.device_put(snapshot.params, self.device)
        self._own = {stamp: self._own[stamp] for stamp in start.pending}
        local = self._held
        for delta in self._own.values():
            weight, share = (
                as_weight(weight_of(each, start.num_workers)) for each in (self._weight, "mean")
            )
            local = self._program.add(local, delta, weight, share)
        steps = start.local_steps
        delta, self._state, metrics = self._program.clock(steps)(
            local,
            self._state,
            self._feed.take(steps),
            self._key,
            np.int32(self.index),
            np.int32(start.clock),
        )
        self._own[start.clock] = delta
        delta = jax.block_until_ready(jax.device_put(delta, self._push_to))
        numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        return Push(self._version, delta, numbers)

    def prefetch(self, start: StartClock) -> None:
        """Draw the next clock's batches, and start their copy to the device, if there is one."""
        if self._num_clocks is None or start.clock + 1 < self._num_clocks:
            self._feed.prefetch(start.local_steps)
