"""The staleness controller: who may run, what is merged, who adopts which version.

A state machine without input or output. `handle(event, now)` takes one event and gives the commands
that follow from it, in the order in which they are to be carried out. It holds integers and tuples,
never an array, a lock or a thread, and it never reads a clock: time is an argument.

The rules, in order, for every event:

1. *Take it in.* A worker that joins enters at the smallest clock of the live workers (one that was
   here before enters no lower than where it left). A ready delta advances its worker's clock and
   is buffered. A lost worker, or one whose data has ended, stops counting at once; what it pushed
   stays in the buffer. A delta
   whose token is not the one that its worker runs under is late: it is fenced, and that is all.
2. *Settle.* The policy is asked what to do with the buffer until it wants nothing more. A merge
   makes one version of one or more deltas. The deltas of a worker are settled (merged or dropped)
   in the order of their stamps; `coverage` is the smallest count of settled deltas of any live
   worker. A policy that says so beforehand may also cancel running clocks: such a clock counts as
   finished and settled, and its worker is asked for the next, for which it adopts anew.
3. *Release.* Exactly the workers that the event can have released are asked whether they may start:
   those that wait for a coverage or a version reached just now, those that gave no reason to wait
   (asked after every event), and the event's own worker.
   *Ahead*, if the run wants that: a worker that is started may go on with the clock after, should
   there be one, while its delta travels. Nobody is asked for that: the policy decides about that
   clock when the delta is there, as without.
4. *End.* A worker that has finished `num_clocks` is stopped. Once `max_updates` deltas are merged,
   nobody starts, and what is pushed from then on is dropped; after a stop request nobody starts,
   and what is still pushed is merged. Clocks granted ahead are void then. When nobody runs any
   more, what is left in the buffer is merged as one version.
5. *Stay alive.* If somebody still has clocks to do, then some worker runs or a timer is set. Where
   all wait for more deltas than can come any more, what is buffered is merged as one version; a
   policy that still lets nobody run is stopped with an error rather than left to hang, and so is
   one that sets no timer and settles nothing however much is buffered.

An illegal event raises `ProtocolError` and changes nothing.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Collection, Sequence
from typing import Any

from jax_ssp.checks import flag, instance, integer, number, optional, shown
from jax_ssp.controller.clocks import ClockVector
from jax_ssp.controller.commands import (
    Cancel,
    Command,
    Drop,
    Fence,
    Merge,
    Merged,
    SetTimer,
    StopWorker,
    new_merge,
    new_merged,
    new_start_ahead,
    new_start_clock,
)
from jax_ssp.controller.errors import PolicyError, ProtocolError
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    StopRequested,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
    new_token,
)
from jax_ssp.controller.waiting import WaitingRoom
from jax_ssp.controller.weight import Weight, check_weight, weight_of
from jax_ssp.policies.base import Decision, Delta, Policy, Wait, in_order, merges_on_arrival
from jax_ssp.policies.local_steps import Fixed, LocalSteps, as_schedule


class Phase(enum.Enum):
    """What a live worker is doing."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


# The enum's members, without the look-up that each use of them would cost.
_WAITING, _RUNNING, _FINISHED = Phase.WAITING, Phase.RUNNING, Phase.FINISHED

_FAR_TOO_MANY = 64  # times what a policy usually merges, left in the buffer


class _Worker:
    """A live worker. A worker that leaves and comes back is a new one."""

    __slots__ = (
        "buffered",
        "clock",
        "held_coverage",
        "id",
        "phase",
        "started",
        "steps",
        "token",
        "unread",
        "version",
    )

    def __init__(self, worker: int, clock: int) -> None:
        self.id = worker
        self.clock = clock  # the clocks it has finished
        self.buffered = 0  # how many of its deltas are, the last ones that it pushed
        self.phase = _WAITING
        self.version = -1  # the version it holds; none yet
        self.held_coverage = -1  # of that version, when it was adopted
        self.unread: tuple[int, ...] = ()  # its own deltas that version does not contain
        self.started = 0.0  # when it started the clock that it runs, or ran last
        self.steps = 0  # the local steps of that
        self.token: Token | None = None  # of that, while it runs


class Controller:
    """Decides, event by event, for one run.

    Args:
        policy: the rules of admission and merging; the run's own copy of it is made here.
        local_steps: H, or the schedule of it (steps a clock), where the policy has none of its own.
        num_clocks: clocks every worker finishes; None for no end by clocks.
        max_updates: the run ends with the merge that brings the merged deltas to this many; a
            barrier is never split, so a policy that merges several at once may go past it.
        weight: of a delta in a merge: "mean" (1 / workers), "sum" (1), "merged" (1 / deltas of the
            merge), or a number.
        grant_ahead: whether who is started may go on with its next clock (`StartAhead`); not under
            a policy that cancels clocks.

    Raises:
        ValueError: if `local_steps`, `num_clocks` or `max_updates` is less than 1, or `weight` is
            none of these.

    Example:
        >>> from jax_ssp.policies import SSP
        >>> controller = Controller(SSP(bound=1), num_clocks=2)
        >>> (start,) = controller.handle(WorkerJoined(0), now=0.0)
        >>> start.worker, start.clock, start.version, start.token
        (0, 0, 0, Token(term=0, grant=0))
        >>> merge, start = controller.handle(start.finished(), now=1.0)
        >>> merge.deltas[0]._asdict() | {"token": None}
        {'worker': 0, 'clock': 0, 'base': 0, 'staleness': 0, 'lag': 0, 'weight': 1.0, 'token': None}
    """

    def __init__(
        self,
        policy: Policy,
        *,
        local_steps: int | LocalSteps = 1,
        num_clocks: int | None = None,
        max_updates: int | None = None,
        weight: Weight = "mean",
        grant_ahead: bool = False,
    ) -> None:
        instance("Controller(policy=...)", policy, Policy, "a Policy such as `SSP(bound=3)`")
        num_clocks = optional("Controller(num_clocks=...)", num_clocks, integer, least=1)
        max_updates = optional("Controller(max_updates=...)", max_updates, integer, least=1)
        grant_ahead = flag("Controller(grant_ahead=...)", grant_ahead)
        schedule = as_schedule(local_steps, "Controller(local_steps=...)")
        self.policy = policy = policy.begin()
        self.now = -math.inf
        self.version = 0
        self.updates = 0
        self.ended: str | None = None  # why nobody starts any more
        self.term = 0  # no run is resumed yet
        self._grants = 0  # given so far
        self._weight: Weight = check_weight(weight)
        self._alone = 1.0  # the weight of a delta that is merged alone
        self._full = False  # whether that is because of max_updates
        self._limit = sys.maxsize if num_clocks is None else num_clocks  # of clocks to be started
        self._max_updates = max_updates
        self._grant_ahead = grant_ahead and not policy.cancels
        self._reads_own = policy.reads_own
        self._schedule = schedule = schedule.begin()
        # Hooks that a policy leaves as they are need not be asked: their answers are known.
        self._on_arrival = merges_on_arrival(policy)
        self._always_adopts = type(policy).adopts is Policy.adopts
        self._own_steps = type(policy).local_steps is not Policy.local_steps
        self._fixed_steps = schedule.h if type(schedule) is Fixed and not self._own_steps else 0
        self._told: list[Policy | LocalSteps] = []  # who wants to hear of every push
        if type(policy).pushed is not Policy.pushed:
            self._told.append(policy)
        if type(schedule).pushed is not LocalSteps.pushed:
            self._told.append(schedule)
        self._workers: dict[int, _Worker] = {}
        self._clocks = ClockVector()
        # Merged on arrival, what is finished is settled: one vector is both, kept at half the cost.
        self._settled = self._clocks if self._on_arrival else ClockVector()
        self._left_at: dict[int, int] = {}  # clocks of workers that are gone
        self._buffer: dict[Delta, tuple[_Worker, Token]] = {}
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
        return self._workers[worker].clock

    def held_coverage(self, worker: int) -> int:
        return self._workers[worker].held_coverage

    @property
    def workers(self) -> Collection[int]:
        return self._workers.keys()

    def held_version(self, worker: int) -> int:
        return self._workers[worker].version

    def is_running(self, worker: int) -> bool:
        return self._workers[worker].phase is _RUNNING

    def buffered_of(self, worker: int) -> int:
        return self._workers[worker].buffered

    def started(self, worker: int) -> float:
        return self._workers[worker].started

    def steps(self, worker: int) -> int:
        return self._workers[worker].steps

    def scheduled_steps(self, worker: int) -> int:
        return self._schedule.steps(self, worker)

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
        if type(now) is not float:
            now = number("handle(now=...)", now)
        if not now >= self.now:
            raise self._illegal(event, f"time runs backwards, from {self.now} to {now}")
        commands: list[Command] = []
        cancelled: Sequence[_Worker] = ()
        if type(event) is DeltaReady:
            asking = self._delta_ready(event, now, commands)
            if asking is None:
                return commands
        elif type(event) is WorkerDone and self._is_late(event):
            return [self._fence(event, now)]
        else:
            asking = self._take_in(event)
            self.now = now
        if self._buffer or self._timer is not None:
            cancelled = self._settle(commands)
        if self._waiting.for_more or self._waiting.coverage != self._settled.min:
            self._ask_released(commands)
        for record in cancelled:
            self._ask(record, commands)
        if asking is not None:
            self._ask(asking, commands)
        if not self._running:
            self._when_nobody_runs(commands)
        return commands

    # 1. Take it in.

    def _take_in(self, event: Event) -> _Worker | None:
        """Check a rarer event, then apply it; gives the worker that it makes ask for work."""
        match event:
            case WorkerJoined(worker):
                if worker in self._workers:
                    raise self._illegal(event, "it is here already")
                at = max(self._clocks.min, self._left_at.pop(worker, 0))
                record = self._workers[worker] = _Worker(worker, at)
                self._clocks.join(at)
                if not self._on_arrival:
                    self._settled.join(at)
                self._alone = weight_of(self._weight, len(self._workers))
                return record
            case WorkerLost(worker) | WorkerDone(worker):
                record = self._workers.get(worker)
                if record is None:
                    raise self._illegal(event, "it is not here")
                if type(event) is WorkerDone and event.clock != record.clock:
                    raise self._illegal(event, "it is running another clock")
                del self._workers[worker]
                self._left_at[worker] = record.clock
                self._running -= record.phase is _RUNNING
                self._clocks.leave(record.clock)
                if not self._on_arrival:
                    self._settled.leave(record.clock - record.buffered)
                self._waiting.leave(worker)
                self._alone = weight_of(self._weight, max(1, len(self._workers)))
            case TimerFired(at):
                if at != self._timer:
                    raise self._illegal(event, f"the timer is set to {self._timer}")
                self._timer = None
            case StopRequested(reason):
                self._end(reason)
            case _:
                raise TypeError(f"`handle(event=...)` must be an event, got {shown(event)}.")
        return None

    def _is_issued(self, token: Any) -> bool:
        if not isinstance(token, Token):
            return False
        return 0 <= token.term <= self.term and 0 <= token.grant < self._grants

    def _is_late(self, event: DeltaReady | WorkerDone) -> bool:
        record = self._workers.get(event.worker)
        return record is None or record.token is None or event.token != record.token

    def _fence(self, event: DeltaReady | WorkerDone, now: float) -> Fence:
        """Answer what is late."""
        if not self._is_issued(event.token):
            raise self._illegal(event, "its token was never issued")
        self.now = now
        return Fence(event.worker, event.clock, event.token)

    def _delta_ready(
        self, event: DeltaReady, now: float, commands: list[Command]
    ) -> _Worker | None:
        """Take a delta in; gives its worker, or None if the delta is late."""
        worker, clock, base, token = event.worker, event.clock, event.version, event.token
        record = self._workers.get(worker)
        if (
            record is None
            or record.token is None
            or (token is not record.token and token != record.token)
        ):
            commands.append(self._fence(event, now))
            return None
        if clock != record.clock:
            raise self._illegal(event, "it is running another clock")
        if base != record.version:
            raise self._illegal(event, "it was told to read another version")
        self.now = now
        record.token = None
        record.phase = _WAITING
        record.clock = clock + 1
        if self._reads_own:
            record.unread += (clock,)
        self._running -= 1
        self._clocks.advance(clock)
        for listener in self._told:
            listener.pushed(self, Delta(worker, clock, base), event.norm)
        if self._on_arrival and not self._full:
            # What `_settle` would come to, in half the time: it is merged without being buffered.
            version = self.version
            lag = clock + 1 - self._clocks.min
            merged = new_merged(worker, clock, base, version - base, lag, self._alone, token)
            self.version = version + 1
            self.updates += 1
            commands.append(new_merge(version + 1, (merged,), len(self._workers)))
            if self._max_updates is not None:
                self._end_if_full()
        else:
            record.buffered += 1
            self._buffer[Delta(worker, clock, base)] = record, token
        return record

    # 2. Settle.

    def _settle(self, commands: list[Command]) -> Sequence[_Worker]:
        """Do what the policy wants done with the buffer; gives the workers that it cancels."""
        wake: float | None = None
        cancelled: list[_Worker] = []
        while self._buffer and not self._full:
            decision: Any = self.policy.ready(self)
            if not isinstance(decision, Decision):
                raise PolicyError(f"{self.policy} gives {decision!r}, not a `Decision`.")
            merge, drop, reason, wake, cancel = decision
            before = len(self._buffer)
            if drop:
                self._drop(drop, reason, commands)
            if merge:
                self._merge(merge, commands)
            for worker in cancel:
                cancelled.append(self._cancel(worker, reason, commands))
            if len(self._buffer) == before:
                if before > _FAR_TOO_MANY and wake is None:
                    self._check_not_stuck()
                break
        if self._full:
            self._drop(tuple(self._buffer), "the run has ended by max_updates", commands)
            wake = None
        if wake != self._timer:
            if wake is not None and not math.isfinite(wake):
                raise PolicyError(f"{self.policy} wants to be woken at {wake}.")
            self._timer = None if wake is None else float(wake)
            commands.append(SetTimer(self._timer))
        return cancelled

    def _check_not_stuck(self) -> None:
        """A run that merges nothing would never come to its `max_updates`, and fill the memory."""
        usual = max(self.policy.usual_merge(self.num_workers), self.num_workers, 1)
        if len(self._buffer) > _FAR_TOO_MANY * usual:
            raise PolicyError(
                f"{self.policy} settles none of {len(self._buffer)} buffered deltas, where "
                f"{usual} are usual. If it is to merge so many, let its `usual_merge` say so."
            )

    def _merge(self, deltas: Sequence[Delta], commands: list[Command]) -> None:
        owners = [self._take_out(delta) for delta in deltas]
        lost = {owner for owner, _ in owners if not self._is_live(owner)}
        num_workers = len(self._workers) + len(lost)
        weight = weight_of(self._weight, num_workers, len(deltas))
        merged: list[Merged] = []
        for (worker, clock, base), (owner, token) in zip(deltas, owners, strict=True):
            lag = owner.clock - self._clocks.min if self._is_live(owner) else 0
            staleness = self.version - base
            merged.append(new_merged(worker, clock, base, staleness, lag, weight, token))
        self.version += 1
        self.updates += len(merged)
        commands.append(Merge(self.version, tuple(merged), num_workers))
        self._end_if_full()

    def _is_live(self, record: _Worker) -> bool:
        return self._workers.get(record.id) is record

    def _end_if_full(self) -> None:
        full = self._max_updates is not None and self.updates >= self._max_updates
        if full and self.ended is None:
            self._full = True
            self._end("max_updates")

    def _drop(self, deltas: Sequence[Delta], reason: str, commands: list[Command]) -> None:
        for delta in deltas:
            if not reason:
                raise PolicyError(f"{self.policy} drops {delta} without a reason.")
            owner, token = self._take_out(delta)
            owner.unread = tuple(stamp for stamp in owner.unread if stamp != delta.clock)
            commands.append(Drop(delta.worker, delta.clock, reason, token))

    def _cancel(self, worker: int, reason: str, commands: list[Command]) -> _Worker:
        """End a running clock with nothing pushed."""
        record = self._workers.get(worker)
        if record is None or record.phase is not _RUNNING:
            raise PolicyError(f"{self.policy} cancels worker {worker}, which runs no clock.")
        if record.buffered:
            raise PolicyError(f"{self.policy} cancels worker {worker}, whose deltas wait still.")
        if not reason or not self.policy.cancels:
            raise PolicyError(f"{self.policy} cancels worker {worker} unannounced, or for nothing.")
        clock, token = record.clock, record.token
        assert token is not None, "who runs has a token"
        record.token = None
        record.phase = _WAITING
        record.clock = clock + 1
        record.version = record.held_coverage = -1  # so that it adopts anew
        self._running -= 1
        self._clocks.advance(clock)
        if not self._on_arrival:
            self._settled.advance(clock)
        commands.append(Cancel(worker, clock, reason, token))
        return record

    def _take_out(self, delta: Delta) -> tuple[_Worker, Token]:
        """Take a delta out of the buffer; gives who pushed it, live or lost, and its token."""
        found = self._buffer.pop(delta, None)
        if found is None:
            raise PolicyError(f"{self.policy} settles {delta}, which is not buffered.")
        owner, _ = found
        if self._is_live(owner):
            if delta.clock != owner.clock - owner.buffered:
                raise PolicyError(f"{self.policy} settles {delta} before an earlier one.")
            owner.buffered -= 1
            if not self._on_arrival:
                self._settled.advance(delta.clock)
        return found

    # 3. Release.

    def _ask_released(self, commands: list[Command]) -> None:
        for worker in self._waiting.leave_reached(self._settled.min, self.version):
            self._ask(self._workers[worker], commands)

    def _ask(self, record: _Worker, commands: list[Command]) -> None:
        """Start a worker's next clock if the policy lets it have it; if not, it waits."""
        if record.clock >= self._limit:
            record.phase = _FINISHED
            commands.append(StopWorker(record.id))
            return
        answer = self.policy.admit(self, record.id)
        if answer:  # which no `Wait` is
            self._start(record, commands)
        else:
            self._wait(record, answer)

    def _wait(self, record: _Worker, answer: Wait | bool) -> None:
        coverage, version = answer if isinstance(answer, Wait) else (None, None)
        if coverage is not None and coverage <= self._settled.min:
            raise PolicyError(f"{self.policy} waits for coverage {coverage}, which is there.")
        if version is not None and version <= self.version:
            raise PolicyError(f"{self.policy} waits for version {version}, which is there.")
        self._waiting.enter(record.id, coverage, version)

    def _start(self, record: _Worker, commands: list[Command]) -> None:
        worker, clock = record.id, record.clock
        if record.version < 0 or self._always_adopts or self.policy.adopts(self, worker):
            record.version = self.version
            record.held_coverage = self._settled.min
            buffered = record.buffered if self._reads_own else 0
            record.unread = tuple(range(clock - buffered, clock)) if buffered else ()
        record.steps = steps = self._fixed_steps or self._steps(record)
        record.started = self.now
        record.phase = _RUNNING
        self._running += 1
        record.token = token = new_token(self.term, self._grants)
        self._grants += 1
        here, alone = len(self._workers), self._alone
        read = record.version, record.unread
        commands.append(new_start_clock(worker, clock, steps, *read, here, alone, token))
        if self._grant_ahead and clock + 1 < self._limit:
            commands.append(new_start_ahead(worker, clock + 1, self._sure_steps(clock + 1)))

    def _steps(self, record: _Worker) -> int:
        steps: Any = self.policy.local_steps(self, record.id)
        if not isinstance(steps, int) or steps < 1:
            who = self.policy if self._own_steps else self._schedule
            raise PolicyError(f"{who} gives worker {record.id} {steps!r} local steps.")
        return steps

    def _sure_steps(self, clock: int) -> int:
        """So many local steps at least a clock will have, whatever is decided when it starts."""
        return self._fixed_steps or (not self._own_steps and self._schedule.at(clock)) or 1

    # 4. End, and 5. stay alive.

    def _end(self, reason: str) -> None:
        """Nobody starts any more, and who waits is told so, unless it is said already."""
        if self.ended is None:
            self.ended = reason
            self._limit = 0
            self._waiting.wait_no_more()

    def _when_nobody_runs(self, commands: list[Command]) -> None:
        if self._waiting and self._timer is not None:
            return
        if self._buffer:
            self._merge(in_order(self._buffer), commands)
            if self._timer is not None:
                self._timer = None
                commands.append(SetTimer(None))
            self._ask_released(commands)
        if self._waiting and not self._running:
            waiting = sorted(self._waiting)
            raise PolicyError(f"{self.policy} lets nobody run; waiting: {waiting[:8]}.")

    def _illegal(self, event: Event, why: str) -> ProtocolError:
        where = f"version {self.version}"
        worker = getattr(event, "worker", None)
        record = None if worker is None else self._workers.get(worker)
        if worker is not None and record is None:
            where += f", worker {worker} not live"
        elif worker is not None and record is not None:
            where += (
                f", worker {worker} {record.phase.value}, clock {record.clock}, "
                f"holding version {record.version}"
            )
        return ProtocolError(f"illegal {event}: {why} ({where}).")
