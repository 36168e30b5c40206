"""Shared by the controller's tests: a brute-force model of the contract and a random driver.

The model believes nothing that a controller says. It keeps the bare facts (who is here, who pushed
what, which version each delta went into) and recomputes by scanning them whatever a command claims.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from jax_ssp.controller import (
    Cancel,
    Controller,
    DeltaReady,
    Drop,
    Ends,
    Fence,
    Merge,
    SetTimer,
    StartAhead,
    StartClock,
    StopRequested,
    StopWorker,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import SSP, Decision, Delta, Policy

MOST_WORKERS = 6  # that a test has, over time


@dataclass(frozen=True)
class Forgetful(SSP):
    """SSP that drops the deltas of every second clock."""

    def ready(self, view):
        merge = [delta for delta in view.buffered if delta.clock % 2 == 0]
        drop = [delta for delta in view.buffered if delta.clock % 2 == 1]
        return Decision(merge, drop, reason="an odd clock")


@dataclass(eq=False)
class Push:
    """One delta: where it comes from and what became of it."""

    delta: Delta
    token: Token
    steps: int = 0
    samples: int = 0
    merged_in: int | None = None
    dropped: bool = False  # or cancelled before it was pushed

    @property
    def settled(self) -> bool:
        return self.dropped or self.merged_in is not None

    def missing_in(self, version: int) -> bool:
        return not self.dropped and (self.merged_in is None or self.merged_in > version)


@dataclass(eq=False)
class Stay:
    """A worker from a join to its loss; one that comes back begins a new stay."""

    worker: int
    entered_at: int
    pushes: list[Push] = field(default_factory=list)
    running: StartClock | None = None
    ahead: StartAhead | None = None  # granted, and not started yet
    held: int | None = None
    stopped: bool = False

    @property
    def clock(self) -> int:
        return self.entered_at + len(self.pushes)

    @property
    def waiting(self) -> bool:
        return self.running is None and not self.stopped

    def covered_by(self, version: int) -> int:
        missing = (push.delta.clock for push in self.pushes if push.missing_in(version))
        return next(missing, self.clock)


class Model:
    """The facts of a run, and every clause of the contract as an assertion about them."""

    def __init__(
        self,
        policy: Policy,
        ends: Ends,
        grant_ahead: bool = False,
        weight: str | float = "mean",
        reads_own: bool = True,
        round_samples: int = 0,
    ) -> None:
        self.policy, self.bound = policy, policy.guaranteed_bound
        self.reads_own, self.round_samples = reads_own and policy.reads_own, round_samples
        self.weight = weight
        self.grant_ahead = grant_ahead and not policy.cancels
        self.ends, self.num_clocks = ends, ends.num_clocks
        self.everybody: set[int] = set()
        self.live: dict[int, Stay] = {}
        self.gone: list[Stay] = []
        self.pushes: list[Push] = []
        self.version = self.dropped = self.max_lag = 0
        self.timer: float | None = None
        self.stopping = False
        self.stalenesses: list[int] = []
        self.totals = [(0, 0, 0)]  # deltas, local steps and examples in each version
        self.start_lags: list[int] = []
        self.reads = self.grants = self.cancels = self.late = 0
        self.starts: list[StartClock] = []
        self._last_min_clock = 0

    # The facts, by scanning.

    @property
    def min_clock(self) -> int:
        return min((stay.clock for stay in self.live.values()), default=self._last_min_clock)

    @property
    def buffered(self) -> list[Delta]:
        return [push.delta for push in self.pushes if not push.settled]

    @property
    def ended(self) -> bool:
        return self.stopping or self.spent

    @property
    def spent(self) -> bool:
        """Whether as much is merged as may be in total."""
        ends, totals = self.ends, self.totals[self.version]
        most = (ends.max_updates, ends.max_steps, ends.max_samples)
        return any(m is not None and total >= m for m, total in zip(most, totals, strict=True))

    def round(self, version: int) -> int:
        """The round of a version."""
        return self.totals[version][2] // self.round_samples if self.round_samples else 0

    def coverage(self, version: int) -> int:
        return min(stay.covered_by(version) for stay in self.live.values())

    def running(self) -> list[int]:
        return sorted(stay.worker for stay in self.live.values() if stay.running)

    def waiting(self) -> list[int]:
        return sorted(stay.worker for stay in self.live.values() if stay.waiting)

    def _see_lag(self) -> None:
        lags = (stay.clock - self.min_clock for stay in self.live.values())
        self.max_lag = max(self.max_lag, *lags, 0)
        assert self.bound is None or self.max_lag <= self.bound + 1, self.max_lag

    def is_late(self, event: DeltaReady | WorkerDone) -> bool:
        """Whether it quotes a token that is not the one its worker runs under."""
        stay = self.live.get(event.worker)
        return not (stay and stay.running and stay.running.token == event.token)

    # One entry of the log.

    def entry(self, event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, DeltaReady | WorkerDone) and self.is_late(event):
            assert commands == [Fence(event.worker, event.clock, event.token)], commands
            self.late += isinstance(event, DeltaReady)
            return
        self._happen(event)
        self._see_lag()
        for command in commands:
            self._look_at_command(command)
            match command:
                case StartClock():
                    self._start(command)
                case StartAhead():
                    self._start_ahead(command)
                case Merge():
                    self._merge(command)
                case Drop(worker, clock, reason, token):
                    assert reason, command
                    self._under_way(worker, clock, token).dropped = True
                    self.dropped += 1
                case Cancel(worker, clock, reason, token):
                    assert reason, command
                    assert self.policy.cancels, command
                    self._cancel(worker, clock, token)
                case Fence():
                    raise AssertionError(f"{command}, but {event} is not late")
                case SetTimer(at):
                    self.timer = at
                case StopWorker(worker):
                    assert self.live[worker].waiting, command
                    self.live[worker].stopped = True
        self._grants(commands)
        self._order(event, commands)
        assert self.running() or self.timer is not None or not self.waiting(), "nobody can run"
        assert self.running() or self.waiting() or not self.buffered, "a delta is left behind"

    def _look_at_command(self, command: Command) -> None:
        """What is known of the run besides (see `judge.py`)."""

    def _grants(self, commands: Sequence[Command]) -> None:
        """Who is started is granted its next clock, if there is one, and nobody else is."""
        granted = [command[:2] for command in commands if isinstance(command, StartAhead)]
        starts = [c for c in commands if isinstance(c, StartClock)] if self.grant_ahead else []
        last = None if self.num_clocks is None else self.num_clocks - 1
        assert granted == [(s.worker, s.clock + 1) for s in starts if s.clock != last], commands

    def _order(self, event: Event, commands: Sequence[Command]) -> None:
        """First what is settled, then starts and stops, the event's own worker last of these.

        Where nobody runs then, what is left is merged, and once more some are released.
        """
        kinds = Merge | Drop | Cancel | SetTimer
        parts = itertools.groupby(commands, lambda command: isinstance(command, kinds))
        groups = [(is_settled, list(part)) for is_settled, part in parts]
        settled, *released = groups or [(True, [])]
        if not settled[0]:
            released.insert(0, settled)
        assert len(released) <= 3, commands
        if len(released) > 1:
            assert not any(isinstance(c, StartClock) for c in released[0][1]), commands
            assert [type(command) for command in released[1][1]][:1] == [Merge], commands
        for number, (_, part) in enumerate(released[::2]):
            each = [worker for worker, _ in itertools.groupby(c.worker for c in part)]
            assert len(each) == len(set(each)), f"StartAhead away from its StartClock: {commands}"
            if number == 0:
                assert getattr(event, "worker", None) not in each[:-1], commands

    def _happen(self, event: Event) -> None:
        match event:
            case WorkerJoined(worker):
                before = [stay.clock for stay in self.gone if stay.worker == worker]
                self.live[worker] = Stay(worker, max([self.min_clock, *before]))
                self.everybody.add(worker)
            case DeltaReady(worker, clock, version, token, steps, samples):
                push = Push(Delta(worker, clock, version), token, steps, samples)
                stay = self.live[worker]
                stay.pushes.append(push)
                stay.running = None
                self.pushes.append(push)
            case WorkerLost(worker) | WorkerDone(worker):
                self._last_min_clock = self.min_clock
                self.gone.append(self.live.pop(worker))
            case TimerFired():
                self.timer = None
            case StopRequested():
                self.stopping = True

    def _start(self, start: StartClock) -> None:
        assert start.worker in self.live, f"{start} to a worker that is not here"
        stay = self.live[start.worker]
        assert stay.waiting, f"{start} to a worker that is not waiting"
        assert not self.ended, f"{start} after the end"
        assert self.num_clocks is None or start.clock < self.num_clocks, start
        assert start.clock == stay.clock, (start, stay.clock)
        assert start.local_steps >= 1, start
        assert start.num_workers == len(self.live), start
        assert start.weight == self._weight(len(self.live), merged=1), start
        assert start.version in (self.version, stay.held), f"{start} is neither new nor held"
        assert not stay.ahead or stay.ahead.local_steps <= start.local_steps, (start, stay.ahead)
        if self.policy.waits_for_own:
            assert all(push.settled for push in stay.pushes), f"{start}, but a delta of its waits"
        missing = [push for push in stay.pushes if push.missing_in(start.version)]
        own = tuple(push.delta.clock for push in missing if self.reads_own)
        assert start.pending == own, (start, own)
        assert start.round == self.round(start.version), start
        if self.bound is not None:
            needed = start.clock - self.bound
            assert all(other.clock >= needed for other in self.live.values()), start
            assert self.coverage(start.version) >= needed, start
        assert start.token == (0, len(self.starts)), start
        self.starts.append(start)
        stay.running, stay.held, stay.ahead = start, start.version, None
        self.reads += 1
        self.start_lags.append(start.clock - self.min_clock)

    def _start_ahead(self, ahead: StartAhead) -> None:
        worker, clock, local_steps = ahead
        assert worker in self.live, f"{ahead} to a worker that is not here"
        stay = self.live[worker]
        assert stay.running, f"{ahead} to a worker that does not run"
        assert stay.ahead is None, f"{ahead} after {stay.ahead}"
        assert clock == stay.running.clock + 1, ahead
        assert not self.ended, f"{ahead} after the end"
        assert self.num_clocks is None or clock < self.num_clocks, ahead
        assert local_steps >= 1, ahead
        stay.ahead = ahead
        self.grants += 1

    def _cancel(self, worker: int, clock: int, token: Token) -> None:
        stay = self.live[worker]
        assert stay.running
        assert (stay.running.clock, stay.running.token) == (clock, token)
        assert not stay.ahead
        assert all(push.settled for push in stay.pushes), "a delta waits"
        push = Push(Delta(worker, clock, stay.running.version), token, dropped=True)
        stay.pushes.append(push)
        stay.running = stay.held = None
        self.cancels += 1
        self._see_lag()

    def _merge(self, merge: Merge) -> None:
        assert merge.version == self.version + 1, merge
        assert merge.deltas, merge
        assert merge.round == self.round(self.version), merge
        lost: list[Stay] = []
        updates, steps, samples = self.totals[-1]
        for delta in merge.deltas:
            push = self._under_way(delta.worker, delta.clock, delta.token)
            stay = self._stay_of(push)
            here = self.live.get(delta.worker) is stay
            lag = stay.clock - self.min_clock if here else 0
            lost += [] if here else [stay]
            told = (delta.base, delta.staleness, delta.lag, delta.weight)
            base = push.delta.version
            weight = self._weight(merge.num_workers, len(merge.deltas))
            assert told == (base, self.version - base, lag, weight), delta
            push.merged_in = merge.version
            updates, steps, samples = updates + 1, steps + push.steps, samples + push.samples
            self.stalenesses.append(delta.staleness)
            allowed = self.policy.guaranteed_staleness(len(self.everybody))
            assert allowed is None or delta.staleness <= allowed, (delta, allowed)
        self.version = merge.version
        self.totals.append((updates, steps, samples))
        assert merge.num_workers == len(self.live) + len(set(lost)), merge

    def _weight(self, num_workers: int, merged: int) -> float:
        each = {"mean": 1 / num_workers, "sum": 1.0, "merged": 1 / merged}
        return each.get(self.weight, self.weight)

    def _under_way(self, worker: int, clock: int, token: Token) -> Push:
        """The one delta that is to be settled now; a live worker's own go in order."""
        found = [push for push in self.pushes if push.delta[:2] == (worker, clock)]
        assert len(found) == 1, (worker, clock, found)
        assert found[0].token == token, (found, token)
        assert not found[0].settled, f"{found[0]} is settled twice"
        stay = self._stay_of(found[0])
        if self.live.get(worker) is stay:
            assert next(push for push in stay.pushes if not push.settled) is found[0], found[0]
        return found[0]

    def _stay_of(self, push: Push) -> Stay:
        return next(stay for stay in (*self.live.values(), *self.gone) if push in stay.pushes)


def promises(
    policy: Policy, weight: object = "mean", round_samples: int = 0, reads_own: bool = True
) -> dict[str, object]:
    """What a tape's header says of its policy, of the weight and of rounds."""
    return {
        "bound": policy.guaranteed_bound,
        "max_staleness": policy.guaranteed_staleness(MOST_WORKERS),
        "reads_own": policy.reads_own and reads_own,
        "waits_for_own": policy.waits_for_own,
        "round_samples": round_samples,
        "experiment": {"weight": weight, "optimizer_on": "workers" if reads_own else "server"},
    }


class Run:
    """A controller under test, the tape of it, and the model that judges every answer."""

    def __init__(
        self, policy: Policy, *, workers: int = 0, grant_ahead: bool = False, **limits: Any
    ) -> None:
        names = [column.name for column in fields(Ends) if column.name in limits]
        ends = Ends(**{name: limits.pop(name) for name in names})
        self.controller = Controller(policy, ends=ends, grant_ahead=grant_ahead, **limits)
        weight = limits.get("weight", "mean")
        about = limits.get("reads_own", True), limits.get("round_samples", 0)
        self.model = Model(policy, ends, grant_ahead, weight, *about)
        self.tape = Tape(promises(policy, weight, *about[::-1]))
        self.now = 0.0
        for worker in range(workers):
            self.handle(WorkerJoined(worker))

    def handle(self, event: Event, after: float = 0.0) -> list[Command]:
        """Let this happen `after` seconds from now."""
        self.now += after
        commands = self.controller.handle(event, self.now)
        self.tape.append(self.now, event, commands)
        self.model.entry(event, commands)
        return commands

    def finish(self, worker: int, after: float = 0.0) -> list[Command]:
        """This running worker finishes its clock."""
        start = self.model.live[worker].running
        assert start is not None
        norm = 1.0 + start.clock % 3 if self.model.policy.needs_norms else 0.0
        samples = start.local_steps * (2 + worker % 3)
        return self.handle(start.finished(norm=norm, samples=samples), after)

    def fire_timer(self) -> list[Command]:
        at = self.model.timer
        assert at is not None
        return self.handle(TimerFired(at), max(0.0, at - self.now))

    def drain(self) -> Tape:
        """Stop the run, let everybody finish; gives its complete tape."""
        self.handle(StopRequested("the test is over"))
        while running := self.model.running():
            self.finish(running[0])
        assert self.controller.done
        self.tape.complete = True
        return self.tape


def done(start: StartClock) -> WorkerDone:
    """There is no data for this clock."""
    return WorkerDone(start.worker, start.clock, start.token)


def random_run(
    policy: Policy, seed: int, *, workers: int = 4, events: int = 60, losses: bool = False, **limits
) -> Run:
    """A run of that many events in any order; `losses`: workers go, end, come back, push late."""
    rng = random.Random(seed)
    run = Run(policy, workers=workers, **limits)
    for _ in range(events):
        running, timer = run.model.running(), run.model.timer
        if losses and rng.random() < 0.15:
            worker = rng.randrange(workers)
            here = worker in run.model.live
            run.handle(WorkerLost(worker) if here else WorkerJoined(worker), 0.25)
        elif losses and rng.random() < 0.05 and run.model.starts:
            start = rng.choice(run.model.starts)
            late = start.finished() if rng.random() < 0.7 else done(start)
            if run.model.is_late(late):
                run.handle(late, 0.25)
        elif losses and running and rng.random() < 0.05:
            start = run.model.live[rng.choice(running)].running
            assert start is not None
            run.handle(done(start), 0.25)
        elif timer is not None and (not running or rng.random() < 0.2):
            run.fire_timer()
        elif running:
            run.finish(rng.choice(running), rng.choice((0.0, 0.5, 1.0)))
    return run


def commands_of(tape: Tape, kind: type) -> Iterator[Command]:
    return (command for _, _, commands in tape for command in commands if type(command) is kind)
