"""The staleness controller: who may run, what is merged, who adopts which version.

A state machine without input or output. `handle(event, now)` takes one event and gives the commands
that follow from it, in the order in which they are to be carried out. It holds integers and tuples,
never an array, a lock or a thread, and it never reads a clock: time is an argument.

The rules, in order, for every event:

1. *Take it in.* A worker that joins enters at the smallest clock of the live workers (one that was
   here before enters no lower than where it left). A ready delta advances its worker's clock and
   is buffered. A lost worker stops counting at once; what it pushed stays in the buffer.
2. *Settle.* The policy is asked what to do with the buffer until it wants nothing more. A merge
   makes one version of one or more deltas. The deltas of a worker are settled (merged or dropped)
   in the order of their stamps; `coverage` is the smallest count of settled deltas of any live
   worker.
3. *Release.* Exactly the workers that the event can have released are asked whether they may start:
   those that wait for a coverage or a version reached just now, those that gave no reason to wait
   (asked after every event), and the event's own worker.
4. *End.* A worker that has finished `num_clocks` is stopped. Once `max_updates` deltas are merged,
   nobody starts, and what is pushed from then on is dropped; after a stop request nobody starts,
   and what is still pushed is merged. When nobody runs any more, what is left in the buffer is
   merged as one version.
5. *Stay alive.* If somebody still has clocks to do, then some worker runs or a timer is set; a
   policy that breaks this is stopped with an error rather than left to hang.

An illegal event raises `ProtocolError` and changes nothing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Sequence

from jax_ssp.controller.clocks import ClockVector
from jax_ssp.controller.commands import (
    Command,
    Drop,
    Merge,
    Merged,
    SetTimer,
    StartClock,
    StopWorker,
)
from jax_ssp.controller.errors import PolicyError, ProtocolError
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    TimerFired,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.waiting import WaitingRoom
from jax_ssp.policies.base import Delta, Policy


class Phase(enum.Enum):
    """What a live worker is doing."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


# The enum's members, without the look-up that each use of them would cost.
_WAITING, _RUNNING, _FINISHED = Phase.WAITING, Phase.RUNNING, Phase.FINISHED


class _Worker:
    """A live worker. A worker that leaves and comes back is a new one."""

    __slots__ = ("held_coverage", "phase", "unread", "version")

    def __init__(self) -> None:
        self.phase = _WAITING
        self.version = -1  # the version it holds; none yet
        self.held_coverage = -1  # of that version, when it was adopted
        self.unread: list[int] = []  # stamps of its own deltas that version does not contain


class Controller:
    """Decides, event by event, for one run.

    Args:
        policy: the rules of admission and merging.
        local_steps: H, the default of the policy's `local_steps` (steps a clock).
        num_clocks: clocks every worker finishes; None for no end by clocks.
        max_updates: the run ends with the merge that brings the merged deltas to this many; a
            barrier is never split, so a policy that merges several at once may go past it.

    Raises:
        ValueError: if `local_steps`, `num_clocks` or `max_updates` is less than 1.

    Example:
        >>> from jax_ssp.policies import SSP
        >>> controller = Controller(SSP(bound=1), num_clocks=2)
        >>> controller.handle(WorkerJoined(0), now=0.0)
        [StartClock(worker=0, clock=0, local_steps=1, version=0, pending=(), num_workers=1)]
        >>> controller.handle(DeltaReady(0, clock=0, version=0), now=1.0)[0].deltas
        (Merged(worker=0, clock=0, base=0, staleness=0, lag=0),)
    """

    def __init__(
        self,
        policy: Policy,
        *,
        local_steps: int = 1,
        num_clocks: int | None = None,
        max_updates: int | None = None,
    ) -> None:
        for name, value in (
            ("local_steps", local_steps),
            ("num_clocks", num_clocks),
            ("max_updates", max_updates),
        ):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.policy = policy
        self.now = -math.inf
        self.version = 0
        self.updates = 0
        self.ended: str | None = None  # why nobody starts any more
        self._full = False  # whether that is because of max_updates
        self.default_local_steps = local_steps
        self._num_clocks = num_clocks
        self._max_updates = max_updates
        self._workers: dict[int, _Worker] = {}
        self._clocks = ClockVector()
        self._settled = ClockVector()
        self._left_at: dict[int, int] = {}  # clocks of workers that are gone
        self._buffer: dict[Delta, _Worker] = {}
        self.buffered: Collection[Delta] = self._buffer.keys()
        self._running = 0
        self._timer: float | None = None
        self._waiting = WaitingRoom()

    # The view that policies decide on.

    @property
    def coverage(self) -> int:
        return self._settled.min

    @property
    def min_clock(self) -> int:
        return self._clocks.min

    @property
    def num_workers(self) -> int:
        return len(self._workers)

    def clock(self, worker: int) -> int:
        return self._clocks.of[worker]

    def held_coverage(self, worker: int) -> int:
        return self._workers[worker].held_coverage

    # What runtimes ask.

    @property
    def done(self) -> bool:
        """Nobody runs, nobody waits, nothing is buffered."""
        return not (self._running or self._waiting or self._buffer)

    def phase(self, worker: int) -> Phase:
        """What this live worker is doing; KeyError if it is not live."""
        return self._workers[worker].phase

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event in and say what follows from it.

        Args:
            event: what happened.
            now: when (seconds, on any clock that does not go backwards).

        Returns:
            Commands, to be carried out in this order.

        Raises:
            ProtocolError: if the event is impossible; the controller is as it was.
            PolicyError: if the policy decided something illegal; the run cannot go on.
        """
        if not now >= self.now:
            raise self._illegal(event, f"time runs backwards, from {self.now} to {now}")
        commands: list[Command] = []
        if type(event) is DeltaReady:
            self._delta_ready(event)
            asking = event.worker
        else:
            asking = self._take_in(event)
        self.now = now
        if self._buffer or self._timer is not None:
            self._settle(commands)
        self._release(asking, commands)
        if not self._running:
            self._when_nobody_runs(commands)
        return commands

    # 1. Take it in.

    def _take_in(self, event: Event) -> int | None:
        """Check a rarer event, then apply it; gives the worker that it makes ask for work."""
        match event:
            case WorkerJoined(worker):
                if worker in self._workers:
                    raise self._illegal(event, "it is here already")
                at = max(self._clocks.min, self._left_at.pop(worker, 0))
                self._workers[worker] = _Worker()
                self._clocks.join(worker, at)
                self._settled.join(worker, at)
                return worker
            case WorkerLost(worker):
                if worker not in self._workers:
                    raise self._illegal(event, "it is not here")
                self._left_at[worker] = self._clocks.of[worker]
                self._running -= self._workers.pop(worker).phase is _RUNNING
                self._clocks.leave(worker)
                self._settled.leave(worker)
                self._waiting.leave(worker)
            case TimerFired(at):
                if at != self._timer:
                    raise self._illegal(event, f"the timer is set to {self._timer}")
                self._timer = None
            case StopRequested(reason):
                self.ended = self.ended or reason
            case _:
                raise TypeError(f"not an event: {event!r}")
        return None

    def _delta_ready(self, event: DeltaReady) -> None:
        worker, clock, version = event
        record = self._workers.get(worker)
        if record is None or record.phase is not _RUNNING:
            raise self._illegal(event, "it is not running a clock")
        if clock != self._clocks.of[worker]:
            raise self._illegal(event, "it is running another clock")
        if version != record.version:
            raise self._illegal(event, "it was told to read another version")
        record.phase = _WAITING
        record.unread.append(clock)
        self._running -= 1
        self._clocks.advance(worker)
        self._buffer[Delta(worker, clock, version)] = record

    # 2. Settle.

    def _settle(self, commands: list[Command]) -> None:
        wake: float | None = None
        while self._buffer and not self._full:
            merge, drop, reason, wake = self.policy.ready(self)
            before = len(self._buffer)
            if drop:
                self._drop(drop, reason, commands)
            if merge:
                self._merge(merge, commands)
            if len(self._buffer) == before:
                break
        if self._full:
            self._drop(tuple(self._buffer), "the run has ended by max_updates", commands)
            wake = None
        if wake != self._timer:
            if wake is not None and not math.isfinite(wake):
                raise PolicyError(f"{self.policy} wants to be woken at {wake}.")
            self._timer = None if wake is None else float(wake)
            commands.append(SetTimer(self._timer))

    def _merge(self, deltas: Sequence[Delta], commands: list[Command]) -> None:
        merged: list[Merged] = []
        lost: set[_Worker] = set()
        for delta in deltas:
            worker, clock, base = delta
            owner = self._take_out(delta)
            lag = 0
            if self._workers.get(worker) is owner:
                lag = self._clocks.of[worker] - self._clocks.min
            else:
                lost.add(owner)
            merged.append(Merged(worker, clock, base, self.version - base, lag))
        self.version += 1
        self.updates += len(merged)
        commands.append(Merge(self.version, tuple(merged), len(self._workers) + len(lost)))
        full = self._max_updates is not None and self.updates >= self._max_updates
        if full and self.ended is None:
            self._full, self.ended = True, "max_updates"

    def _drop(self, deltas: Sequence[Delta], reason: str, commands: list[Command]) -> None:
        for delta in deltas:
            if not reason:
                raise PolicyError(f"{self.policy} drops {delta} without a reason.")
            self._take_out(delta).unread.remove(delta.clock)
            commands.append(Drop(delta.worker, delta.clock, reason))

    def _take_out(self, delta: Delta) -> _Worker:
        """Take a delta out of the buffer; gives the worker that pushed it, live or lost."""
        owner = self._buffer.pop(delta, None)
        if owner is None:
            raise PolicyError(f"{self.policy} settles {delta}, which is not buffered.")
        if self._workers.get(delta.worker) is owner:
            if self._settled.of[delta.worker] != delta.clock:
                raise PolicyError(f"{self.policy} settles {delta} before an earlier one.")
            self._settled.advance(delta.worker)
        return owner

    # 3. Release.

    def _release(self, asking: int | None, commands: list[Command]) -> None:
        if self.ended is None:
            released = self._waiting.leave_reached(self._settled.min, self.version)
        else:
            released = list(self._waiting)
            for worker in released:
                self._waiting.leave(worker)
        for worker in released:
            self._ask(worker, commands)
        if asking is not None:
            self._ask(asking, commands)

    def _ask(self, worker: int, commands: list[Command]) -> None:
        record = self._workers[worker]
        clock = self._clocks.of[worker]
        if self.ended is not None or (self._num_clocks is not None and clock >= self._num_clocks):
            record.phase = _FINISHED
            commands.append(StopWorker(worker))
            return
        answer = self.policy.admit(self, worker)
        if answer:
            self._start(worker, record, clock, commands)
        else:
            self._park(worker, answer)

    def _start(self, worker: int, record: _Worker, clock: int, commands: list[Command]) -> None:
        if record.version < 0 or self.policy.adopts(self, worker):
            record.version = self.version
            record.held_coverage = self._settled.min
            if record.unread:
                settled = self._settled.of[worker]
                record.unread = [stamp for stamp in record.unread if stamp >= settled]
        steps = int(self.policy.local_steps(self, worker))
        if steps < 1:
            raise PolicyError(f"{self.policy} gives worker {worker} {steps} local steps.")
        record.phase = _RUNNING
        self._running += 1
        pending = tuple(record.unread)
        commands.append(
            StartClock(worker, clock, steps, record.version, pending, len(self._workers))
        )

    def _park(self, worker: int, answer: object) -> None:
        coverage, version = getattr(answer, "coverage", None), getattr(answer, "version", None)
        if coverage is not None and coverage <= self._settled.min:
            raise PolicyError(f"{self.policy} waits for coverage {coverage}, which is there.")
        if version is not None and version <= self.version:
            raise PolicyError(f"{self.policy} waits for version {version}, which is there.")
        self._waiting.enter(worker, coverage, version)

    # 4. End, and 5. stay alive.

    def _when_nobody_runs(self, commands: list[Command]) -> None:
        if self._waiting:
            if self._timer is None:
                waiting = sorted(self._waiting)
                raise PolicyError(f"{self.policy} lets nobody run; waiting: {waiting[:8]}.")
        elif self._buffer:
            left = sorted(self._buffer, key=lambda delta: (delta.clock, delta.worker))
            self._merge(left, commands)
            if self._timer is not None:
                self._timer = None
                commands.append(SetTimer(None))

    def _illegal(self, event: Event, why: str) -> ProtocolError:
        where = f"version {self.version}"
        worker = getattr(event, "worker", None)
        record = None if worker is None else self._workers.get(worker)
        if worker is not None and record is None:
            where += f", worker {worker} not live"
        elif worker is not None and record is not None:
            where += (
                f", worker {worker} {record.phase.value}, clock {self._clocks.of[worker]}, "
                f"holding version {record.version}"
            )
        return ProtocolError(f"illegal {event}: {why} ({where}).")
