"""The workers of a run with integers, which compute a clock when its delta is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_ssp.controller.commands import Cancel, StartAhead, StartClock
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.controller.tape import Tape
from jax_ssp.data.ledger import Ledger
from jax_ssp.runtimes.base import Donor, LazyExecutor, Message
from jax_ssp.testing.simulation.arithmetic import PRIME, Delta, NumberStore, weighed
from jax_ssp.testing.simulation.audit import Audit
from jax_ssp.testing.simulation.dice import mixed
from jax_ssp.testing.simulation.scenario import SAMPLES, Scenario

_LOST = 97  # of what is sent so much stays in the residual, at most


class Replica(NamedTuple):
    """A worker's state between two clocks.

    Attributes:
        state: of its optimizer; None before its first clock.
        residual: what was not sent.
        own: its deltas as they were sent, by stamp, that it may have to add.
        version, held: what it has adopted: the number, and the value.
        local: its parameters.
        cursor: batches of its own that it, and whoever was in its place, have begun.
    """

    state: int | None = None
    residual: int = 0
    own: tuple[tuple[int, int], ...] = ()
    version: int = -1
    held: int = 0
    local: int = 0
    cursor: int = 0

    @property
    def ran(self) -> int:
        """Steps of the next clock that it has run ahead: none before it is asked for its delta."""
        return 0

    def pack(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Facts for JSON, and numbers by name, which say all of it."""
        facts = {"own": [stamp for stamp, _ in self.own], "cursor": self.cursor}
        numbers = {f"{name}own/{stamp}": value for stamp, value in self.own}
        for each in ("state", "residual", "version", "held", "local"):
            numbers[f"{name}{each}"] = getattr(self, each)
        return facts, numbers

    @classmethod
    def unpacked(cls, name: str, facts: Mapping[str, Any], numbers: Mapping[str, Any]) -> Replica:
        """What was packed."""
        own = tuple([(stamp, numbers[f"{name}own/{stamp}"]) for stamp in facts["own"]])
        rest = {each: numbers[f"{name}{each}"] for each in ("state", "residual", "version")}
        held, local = numbers[f"{name}held"], numbers[f"{name}local"]
        return cls(own=own, held=held, local=local, cursor=facts["cursor"], **rest)


class Seat:
    """Where a worker is, or was.

    Attributes:
        index: its number.
        replica: its state.
    """

    is_dispatched = False

    def __init__(self, index: int) -> None:
        self.index = index
        self.replica = Replica()

    def take_up(self, store: NumberStore, name: str, facts: Any, numbers: Any) -> None:
        """Be what was packed under a name."""
        self.replica = Replica.unpacked(name, facts, numbers)


class Job(NamedTuple):
    """A clock that is to be computed, and the grant by which some of it was run ahead."""

    start: StartClock
    ahead: StartAhead | None


class Workers(LazyExecutor):
    """Computes the clocks of all workers.

    Args:
        scenario: of the run.
        store: where they read and push.
        audit: hears of every delta.
        ledger: deals the batches; None where each worker has its own.

    Attributes:
        seats: of all workers, here or not.
        jobs: by worker, not computed yet, in the order of their starts.
        granted: by worker, a clock that it may start with what it has.
        tape: of the run.
    """

    tape: Tape

    def __init__(
        self, scenario: Scenario, store: NumberStore, audit: Audit, ledger: Ledger | None = None
    ) -> None:
        self._scenario = scenario
        self._ledger = ledger
        self._dealt: dict[int, tuple[list[int], int]] = {}  # numbers, from which cursor on
        self._store = store
        self._audit = audit
        self.seats = [Seat(index) for index in range(scenario.workers)]
        self.jobs: dict[int, Job] = {}
        self.granted: dict[int, StartAhead] = {}
        self._armed = False
        self._began: dict[int, tuple[Token, Replica]] = {}

    @property
    def cursors(self) -> list[int]:
        """Of each worker, how many batches of its own were begun."""
        return [seat.replica.cursor for seat in self.seats]

    def has_data(self, worker: int) -> bool:
        place = mixed(self._scenario.seed ^ mixed(worker ^ self.cursors[worker] << 8))
        return place % 100 >= self._scenario.data_ends

    def start(self, start: StartClock) -> None:
        worker, cursor = start.worker, self.seats[start.worker].replica.cursor
        if self._ledger is not None and worker not in self._dealt:
            self._dealt[worker] = self._ledger.open(worker, cursor), cursor
        self.jobs[worker] = Job(start, self.granted.pop(worker, None))
        if self._armed:
            self._began[worker] = start.token, self.seats[worker].replica

    def start_ahead(self, grant: StartAhead) -> None:
        self.granted[grant.worker] = grant

    def cancel(self, cancel: Cancel) -> None:
        start, _ = self.jobs.pop(cancel.worker)
        batches = self.next_batches(start)
        self._audit.lost(start, Delta(start.token.grant, batches))
        self._audit.passed_over(cancel.token, batches)
        seat = self.seats[cancel.worker]
        cursor = seat.replica.cursor + start.local_steps
        seat.replica = seat.replica._replace(cursor=cursor)

    def lost(self, worker: int) -> None:
        job = self.jobs.pop(worker, None)
        if job is not None:
            self._audit.lost(job.start, Delta(job.start.token.grant, self.next_batches(job.start)))
        self.granted.pop(worker, None)
        self._dealt.pop(worker, None)
        seat = self.seats[worker]
        seat.replica = Replica(cursor=seat.replica.cursor)

    def joined(self, worker: int, donor: Donor | None = None) -> None:
        if donor is None:
            return
        seat, giver = self.seats[worker], self.seats[donor.worker].replica
        seat.replica = seat.replica._replace(state=giver.state)
        if self._scenario.keeps:
            off = [sent for stamp, sent in giver.own if stamp in donor.waiting]
            local = (giver.local - weighed(donor.weight) * sum(off)) % PRIME
            seat.replica = seat.replica._replace(local=local)
        self._audit.heirs[len(self.tape)] = donor.waiting

    def arm(self, on: bool) -> None:
        self._armed = on
        if not on:
            self._began.clear()

    def kept(self, running: Mapping[int, StartClock]) -> Any:
        replicas = [seat.replica for seat in self.seats]
        if not self._scenario.eager:
            return replicas
        for worker, start in running.items():  # as where a clock begins before anybody asks
            token, replica = self._began.get(worker, (None, None))
            if token != start.token or replica is None:
                return None
            replicas[worker] = replica
        return replicas

    def push_late(self, event: DeltaReady) -> None:
        """What was computed by somebody who is gone comes, or something comes twice."""
        self._store.push(event, self._audit.pushed(event.token), {})

    def next_batches(self, start: StartClock) -> tuple[int, ...]:
        """The batches of a clock that is to be computed."""
        worker, begun = start.worker, self.seats[start.worker].replica.cursor
        if self._ledger is None:
            of = self._scenario.workers
            return tuple([worker + of * (begun + step) for step in range(start.local_steps)])
        numbers, first = self._dealt[worker]
        return tuple(numbers[begun - first : begun - first + start.local_steps])

    def finished(self, start: StartClock) -> Message:
        job = self.jobs.pop(start.worker)
        delta = self._computed(job)
        self._audit.computed(start, delta)
        norm = 1.0 + delta.value % 5 if self._scenario.policy.needs_norms else 0.0
        event = start.finished(samples=SAMPLES * start.local_steps, norm=norm)
        metrics = {"loss": float(delta.value % 1000)}
        self._store.push(event, delta, metrics)
        return Message(event, metrics)

    def _computed(self, job: Job) -> Delta:
        start, ahead = job
        seat = self.seats[start.worker]
        replica = seat.replica
        batches = self.next_batches(start)
        state, progress, x = replica.state, 0, replica.local
        first = 0 if ahead is None else min(self._scenario.overlap, ahead.local_steps)
        held, keeps = replica.held, self._scenario.keeps
        if replica.version != start.version:
            held = self._store.snapshot(start.version)
        if state is None:  # whoever is new here begins with what it reads first
            state, first = held % PRIME, 0
            keeps = False
        for batch in batches[:first]:
            step = _step(x, state, batch)
            x, progress, state = x + step, progress + step, _state(state, batch)
        own = tuple([each for each in replica.own if each[0] in start.pending])
        base = held + weighed(start.weight) * sum([value for _, value in own])
        if keeps:  # of both, so much as shows
            base += 5 * replica.local
        x = base + progress
        for batch in batches[first:]:
            step = _step(x, state, batch)
            x, progress, state = x + step, progress + step, _state(state, batch)
        total = (progress + replica.residual) % PRIME
        residual = total % _LOST
        sent = total - residual
        local, cursor = (base + progress) % PRIME, replica.cursor + len(batches)
        own = (*own, (start.clock, sent))
        seat.replica = Replica(state, residual, own, start.version, held, local, cursor)
        return Delta(sent, batches)


def _step(x: int, state: int, batch: int) -> int:
    return (x * 6364136223846793005 + state * 1442695040888963407 + batch + 1) % PRIME


def _state(state: int, batch: int) -> int:
    return (3 * state + batch + 1) % PRIME
