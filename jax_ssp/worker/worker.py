"""What a worker computes, in every world: adopt, run the local steps, remember its own deltas.

Work is only dispatched here, never waited for, until `finish` asks for the oldest clock's delta: so
a device always has its next work while the host is busy with the last.

Of a worker's parameters, `base` is the snapshot it adopted plus those of its own deltas that the
snapshot lacks; all else is progress since then. A clock that is run whole starts at its base. One
that was granted ahead runs its first steps at the end of the clock before (base + delta, as they
were), and the rest at its own base plus what it carries over: by default those first steps'
progress. All of these are masters; what of them is averaged follows its own rule (`layout.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.compression import nbytes
from jax_ssp.controller import StartAhead, StartClock
from jax_ssp.controller.weight import Weight
from jax_ssp.data.shards import Feed, kind_of
from jax_ssp.layout import Delta, Params
from jax_ssp.server.server import Snapshot, as_weight, factors_of
from jax_ssp.server.wire import Memory, Wire, transfer
from jax_ssp.worker.adopt import Adopt, Mix
from jax_ssp.worker.needs import Needs
from jax_ssp.worker.outbox import Push
from jax_ssp.worker.program import Program
from jax_ssp.worker.waits import QUIET_SECONDS, Waiting


class Part(NamedTuple):
    """Some steps of a clock, by one program.

    Attributes:
        steps: how many.
        samples: examples in their batches.
        finite: whether every number of the delta that they come to is.
        metrics: their means.
    """

    steps: int
    samples: int
    finite: Any
    metrics: Mapping[str, Any]


class _Ahead(NamedTuple):
    """The first steps of a clock, dispatched before its `StartClock`."""

    progress: Delta
    part: Part | None


class _Dispatched(NamedTuple):
    """A clock that computes, or has."""

    clock: int
    version: int
    payload: list[Any]
    parts: list[Part]
    norm: jax.Array | None
    base: list[Any] | None


class _Before(NamedTuple):
    """What a worker was before the clock that it has begun."""

    clock: int
    state: Any
    residual: list[Any]
    base: Params
    delta: Delta


class Worker:
    """One replica: a device, a worker state, a feed of batches.

    Args:
        index: number of the worker.
        program: shared with the others.
        place: the device it is said to be on.
        device: where it computes.
        snapshot: the first version, to shape the worker state.
        feed: its batches.
        key: the run's PRNG key; the worker folds in itself, the clock and the step.
        weight: the run's rule, for the share of statistics in own deltas that are not merged yet.
        wire: how deltas and snapshots travel.
        push_to: the server's devices.
        memory: for deltas, shared by the workers of a device.
        local_steps: the numbers of steps that most clocks have.
        needs: what is wanted of it, beside deltas.
        num_clocks: clocks it will run, if that is known; no batch is drawn ahead after the last.
        overlap: local steps to run ahead, where a clock is granted ahead.
        adopt: what then becomes of them.
    """

    def __init__(
        self,
        index: int,
        program: Program,
        place: jax.Device,
        device: jax.Device,
        snapshot: Snapshot,
        feed: Feed,
        key: jax.Array,
        weight: Weight,
        wire: Wire,
        push_to: tuple[jax.Device, ...],
        memory: Memory,
        local_steps: tuple[int, ...],
        needs: Needs = Needs(),  # noqa: B008 (immutable)
        num_clocks: int | None = None,
        overlap: int = 0,
        adopt: Adopt = "rebase",
    ) -> None:
        self.index = index
        self.place = place
        self.device = device
        self.program = program
        self.key = jax.device_put(jax.random.fold_in(key, index), device)
        self._feed = feed
        self._weight = weight
        self._wire = wire
        self._push_to = push_to
        self._local_steps = local_steps
        self._needs = needs
        self._num_clocks = num_clocks
        self._overlap = overlap
        self._mix = as_weight(adopt.alpha) if isinstance(adopt, Mix) else None
        self._memory = memory
        self._adopt(snapshot)
        # Committed, like all that follows: a state that is not would cost a second compilation.
        self.state = jax.device_put(program.init(self._held), device)
        self._residual = jax.device_put(wire.residual(), device)
        self._base = self._held
        self._delta: Delta = None  # of the clock dispatched last
        self._own: dict[int, tuple[Delta, Delta]] = {}  # by stamp: what was sent, the delta
        self._known_factors: dict[tuple[float, int], tuple[np.ndarray, np.ndarray]] = {}
        self._settled: list[Delta] = []  # deltas whose memory is to be given back
        self._ahead: _Ahead | None = None
        self._before: _Before | None = None
        self._dispatched: deque[_Dispatched] = deque()

    @property
    def kind(self) -> tuple[Any, ...]:
        """What the next batches of two workers must have in common to be computed together."""
        return kind_of(self._feed.peek())

    @property
    def carries(self) -> bool:
        """Whether a clock starts from what the last one left, not from what is read alone."""
        return self._mix is not None

    @property
    def residual(self) -> list[Any]:
        """What the wire has lost of its deltas so far, in pieces; it goes with the next one."""
        return self._residual

    def waits(self) -> Waiting | None:
        """That it waits for its data, if it does; any thread may ask."""
        waiting = self._feed.waiting()
        if waiting is None:
            return None
        batch, seconds = waiting
        what = f"waits for batch {batch} of its data"
        return Waiting(self.index, what, seconds, QUIET_SECONDS)

    # What it is told to do.

    def has_data(self) -> bool:
        """Whether there is a batch for the next clock, or some of it is run already."""
        return self._ran > 0 or self._feed.ready(1) > 0

    def ready(self, start: StartClock) -> int:
        """How many steps the clock will have: its last one may have less than it was granted."""
        return self._ran + self._feed.ready(start.local_steps - self._ran)

    @property
    def _ran(self) -> int:
        """The steps of the next clock that are dispatched already."""
        ahead = self._ahead
        return 0 if ahead is None or ahead.part is None else ahead.part.steps

    def go_ahead(self, grant: StartAhead) -> None:
        """Dispatch the first steps of a clock behind the clock that runs still, if it has data."""
        steps = self._feed.ready(min(self._overlap, grant.local_steps))
        if not steps:
            return
        arguments = self.arguments(self._base, steps, grant.clock)
        progress, self.state, metrics, finite = self.program.ahead(steps)(
            *arguments, self._delta, self._memory.take()
        )
        self._ahead = _Ahead(progress, part_of(arguments, steps, finite, metrics))

    def begin(self, start: StartClock, snapshot: Snapshot | None) -> None:
        """Dispatch a clock, or what is left of it.

        Args:
            start: which clock, how many steps, and which of its own deltas to add.
            snapshot: the version to adopt; None to go on with the one it holds.
        """
        steps, ahead = self.ready(start), self._ahead
        if not steps:
            raise ValueError(
                f"`data(worker={self.index})` has ended before clock {start.clock}, which is to be "
                "run; it must give a worker the same batches each time."
            )
        # What is held here is not given back, and so not overwritten, before all is dispatched.
        old, old_delta, held = self._base, self._delta, self._snapshot
        base = self.read(start, snapshot)
        if ahead is None and self._mix is not None and old_delta is not None:
            ahead = _Ahead(None, None)  # nothing is run ahead, but what was left is carried over
        if ahead is None:
            # What the last clock left is not needed, and makes room.
            del old, old_delta, held
            self._base = self._delta = None
            self._give_back()
            arguments = self.arguments(base, steps, start.clock)
            delta, self.state, metrics, finite = self.program.clock(steps)(
                *arguments, self._memory.take()
            )
            self.dispatched(start, base, delta, [part_of(arguments, steps, finite, metrics)])
            return
        carried = ahead.progress
        if self._mix is not None:
            moves = [old_delta] if ahead.part is None else [old_delta, carried]
            carried = self.program.mixed(self._mix, old, base, *moves)
        done, parts = self._ran, [] if ahead.part is None else [ahead.part]
        left = steps - done
        if left:
            arguments = self.arguments(base, left, start.clock)
            carried, self.state, metrics, finite = self.program.rest(done, steps)(
                *arguments, carried
            )
            parts.append(part_of(arguments, left, finite, metrics))
        elif self.program.layout.has_averaged:
            carried = self.program.entered(base, carried)
        self._ahead = None
        self.dispatched(start, base, carried, parts)
        del held

    def finish(self) -> Push:
        """Wait for the delta of the oldest clock that was begun; it is then with the server."""
        _, version, payload, parts, norm, base = self._dispatched.popleft()
        if self.device.platform == "cpu":  # what one program makes is ready at one time
            jax.tree.leaves(payload)[0].block_until_ready()
        else:
            jax.block_until_ready(payload)
        arrived = list(map(transfer, payload, self._push_to))
        steps, numbers = sum(part.steps for part in parts), dict[str, float]()
        for part in parts:
            for name, value in part.metrics.items():
                share = part.steps / steps * float(np.asarray(value))
                numbers[name] = numbers.get(name, 0.0) + share
        return Push(
            version,
            arrived,
            numbers,
            steps,
            sum(part.samples for part in parts),
            bool(np.asarray(parts[-1].finite)),  # the delta of the last contains the others'
            0.0 if norm is None else float(np.asarray(norm)),
            None if base is None else list(map(transfer, base, self._push_to)),
        )

    def cancel(self) -> None:
        """Forget the clock that was begun last: but for its batches, all is as it was before it."""
        assert self._before is not None
        clock, self.state, self._residual, self._base, self._delta = self._before
        self._before = None
        self._own.pop(clock, None)
        if self._dispatched and self._dispatched[-1].clock == clock:
            self._dispatched.pop()

    def skip(self, steps: int) -> None:
        """Pass over a clock of so many steps that was not begun."""
        self._feed.skip(steps)

    def prefetch(self, start: StartClock) -> None:
        """Draw the next clock's batches, and start their copy to the device, if there is one."""
        ran = self._ran
        left = start.local_steps - ran
        clock = start.clock + (1 if left else 2)
        if self._num_clocks is None or clock < self._num_clocks:
            self._feed.prefetch(left or ran)

    # Its parts, which a batch of workers uses too.

    def read(self, start: StartClock, snapshot: Snapshot | None) -> Params:
        """Adopt, and give the parameters that the clock is to start from."""
        if self._needs.undo:
            copies = jax.tree.map(jnp.copy, (self.state, self._residual))
            carried = (self._base, self._delta) if self.carries else (None, None)
            self._before = _Before(start.clock, *copies, *carried)
        if snapshot is not None:
            self._adopt(snapshot)
        settled = [stamp for stamp in self._own if stamp not in start.pending]
        self._settled = [self._own.pop(stamp)[1] for stamp in settled]
        local = self._held
        for sent, _ in self._own.values():
            local = self.program.add(local, sent, *self._factors(start))
        return local

    def _factors(self, start: StartClock) -> tuple[np.ndarray, np.ndarray]:
        """The weight of an own delta, and the share of its statistics, in a merge of it alone."""
        said = start.weight, start.num_workers
        if said not in self._known_factors:
            both = factors_of([start.weight], start.num_workers, self._weight)[0]
            self._known_factors[said] = as_weight(both[0]), as_weight(both[1])
        return self._known_factors[said]

    def arguments(self, base: Params, steps: int, clock: int) -> tuple[Any, ...]:
        """What a program of so many steps takes: base, state, batches, key and clock."""
        return base, self.state, self._feed.take(steps), self.key, np.int32(clock)

    def dispatched(
        self,
        start: StartClock,
        base: Params,
        delta: Delta,
        parts: list[Part],
    ) -> None:
        """Have a clock's delta sent, which may still be under way on the device."""
        self._base, self._delta = base, delta
        norm = self.program.norm(delta) if self._needs.norm else None
        origin = self._wire.split(base) if self._needs.base else None
        if self._wire.packs:
            payload, sent, self._residual = self._wire.pack(
                delta, self._residual, self.key, np.int32(start.clock)
            )
        else:
            payload, sent = [delta], None
        if self.device.platform != "cpu":  # start the copies; on the CPU there are none
            payload = list(map(jax.device_put, payload, self._push_to))
            if origin is not None:
                origin = list(map(jax.device_put, origin, self._push_to))
            for value in jax.tree.leaves([(part.finite, part.metrics) for part in parts]):
                value.copy_to_host_async()
        if self._needs.own:
            # A delta that was sent as it is, or whose memory is to be given back, is kept itself.
            kept = delta if sent is None or self._memory.reuses else None
            self._own[start.clock] = delta if sent is None else sent, kept
        self._give_back()
        self._dispatched.append(
            _Dispatched(start.clock, self._version, payload, parts, norm, origin)
        )

    def _give_back(self) -> None:
        """Let other deltas be put where the settled ones were."""
        while self._settled:
            settled = self._settled.pop()
            if not self._needs.undo:  # else it may be needed again
                self._memory.give(settled)

    def _adopt(self, snapshot: Snapshot) -> None:
        self._version = snapshot.version
        # Where it is not copied it is held, so that its memory stays what it is.
        self._snapshot = snapshot if self.device.platform == "cpu" else None
        if self._needs.base or (self._needs.undo and self.carries):
            snapshot.keep()  # the server reads it after the worker, or the worker once more
        pieces = snapshot.to(self.device)
        self._held: Params = self._wire.unpack(pieces) if self._wire.unpacks else pieces[0]

    # Before the first clock.

    def compile(self) -> None:
        """Compile what it will run, for its device, by running it once; the results are dropped."""
        delta: Delta = None
        for steps in self._local_steps:
            delta, _, _, _ = self.program.clock(steps)(*self._example(steps), self._memory.take())
            self._compile_parts(steps, delta)
        if self._needs.norm:
            jax.block_until_ready(self.program.norm(delta))
        if self._needs.base:
            jax.block_until_ready(self._wire.split(self._held))
        if self._wire.packs:
            residual = jax.tree.map(jnp.copy, self._residual)
            jax.block_until_ready(self._wire.pack(delta, residual, self.key, np.int32(0)))
        jax.block_until_ready(delta)
        self._memory.give(delta)

    def _compile_parts(self, steps: int, delta: Delta) -> None:
        """What a clock is made of that starts from what another left."""
        first, moves = min(self._overlap, steps), [delta]
        if first:
            arguments = *self._example(first), delta, self._memory.take()
            moves.append(self.program.ahead(first)(*arguments)[0])
        elif self._mix is None:
            return
        progress = moves[-1]
        if self._mix is not None:
            progress = self.program.mixed(self._mix, self._held, self._held, *moves)
        if first == steps and self.program.layout.has_averaged:
            progress = self.program.entered(self._held, progress)
        if first < steps:
            arguments = *self._example(steps - first), progress
            progress, _, _, _ = self.program.rest(first, steps)(*arguments)
        jax.block_until_ready(progress)

    def lower(self) -> jax.stages.Lowered:
        """The clock, traced and lowered for this device but not compiled."""
        steps = self._local_steps[-1]
        return self.program.clock(steps).lower(*self._example(steps), [])

    def rehearse(self) -> dict[str, float]:
        """Compile the clock and run it; gives times (seconds) and memory (bytes)."""
        began = time.perf_counter()
        compiled = self.lower().compile()
        compile_seconds = time.perf_counter() - began
        steps = self._local_steps[-1]
        jax.block_until_ready(compiled(*self._example(steps), []))
        example = jax.block_until_ready((*self._example(steps), []))
        began = time.perf_counter()
        jax.block_until_ready(compiled(*example))
        clock_seconds = time.perf_counter() - began
        memory = compiled.memory_analysis()
        return {
            "compile_seconds": compile_seconds,
            "clock_seconds": clock_seconds,
            "parameter_bytes": nbytes(self._held),
            "argument_bytes": memory.argument_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
        }

    def _example(self, steps: int) -> tuple[Any, ...]:
        batch = self._feed.example(steps)
        state = jax.tree.map(jnp.copy, self.state)  # the clock takes its state over
        return self._held, state, batch, self.key, np.int32(0)


def part_of(arguments: tuple[Any, ...], steps: int, finite: Any, metrics: Any) -> Part:
    """What a program of so many steps did, given its arguments (see `Worker.arguments`)."""
    return Part(steps, samples_in(arguments[2], steps), finite, metrics)


def samples_in(batch: Any, steps: int) -> int:
    """Examples in the batches of so many steps, stacked if there are several.

    The size of the first array that has an axis of examples; without one, one example a step.

    Example:
        >>> samples_in(np.zeros((3, 8, 2)), steps=3), samples_in(np.zeros((8, 2)), steps=1)
        (24, 8)
    """
    axis = 0 if steps == 1 else 1
    sizes = (leaf.shape[axis] for leaf in jax.tree.leaves(batch) if np.ndim(leaf) > axis)
    return steps * next(sizes, 1)
