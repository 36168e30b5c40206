"""A judge of whole tapes for the mutation test: the brute-force model, and the header beside it.

It shares no code with what it judges. It makes the policy of a header anew, scans for whatever a
row claims, and raises (an assertion, or whatever nonsense leads to) where a tape cannot be.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from jax_ssp.controller import (
    Cancel,
    DeltaReady,
    Drop,
    Ends,
    Fence,
    Merge,
    Merged,
    Resumed,
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
from jax_ssp.policies import ALL_POLICIES, Policy
from tests.helpers.harness import Model


@dataclass
class Plain:
    """A tape whose rows are not packed, so that they can hold anything."""

    header: dict[str, Any]
    complete: bool
    entries: list[tuple[Any, Any, list[Any]]]

    def __iter__(self):
        return iter(self.entries)


@dataclass(frozen=True)
class Declared:
    """Stands for a policy that is not known: what its header says of it."""

    guaranteed_bound: int | None
    staleness: int | None
    reads_own: bool
    waits_for_own: bool
    gives_weights: bool = False
    cancels: bool = True
    needs_norms: bool = True

    def guaranteed_staleness(self, num_workers):
        return self.staleness


def is_count(value, least=0):
    return type(value) is int and value >= least


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def same(here, there):
    """Equal, and of the same types."""
    return json.dumps(here) == json.dumps(there)


# By hand, what each field is: a (count), t (time), s (text), b (boolean), n (any number), k
# (token), p (counts), m (merged deltas), o (a time or None), e (an end or None), d (a count or
# None), w (weight), x (nothing, or three times).
FIELDS = {
    WorkerJoined: "ad",
    DeltaReady: "aaakaabnxa",
    WorkerLost: "asb",
    WorkerDone: "aak",
    TimerFired: "t",
    StopRequested: "s",
    Resumed: "aeeee",
    StartClock: "aaaapawkab",
    StartAhead: "aaa",
    Merge: "amaa",
    Merged: "aaaaawk",
    Drop: "aask",
    Cancel: "aask",
    Fence: "aak",
    SetTimer: "o",
    StopWorker: "a",
    Token: "aa",
}


def well_formed(message):
    kinds = FIELDS[type(message)]
    assert len(kinds) == len(message), message
    for kind, value in zip(kinds, message, strict=True):
        match kind:
            case "a":
                assert is_count(value), message
            case "t" | "w":
                assert is_number(value), message
            case "o":
                assert value is None or is_number(value), message
            case "e":
                assert value is None or is_count(value, 1), message
            case "d":
                assert value is None or is_count(value), message
            case "s":
                assert type(value) is str, message
            case "b":
                assert type(value) is bool, message
            case "x":
                assert type(value) is tuple, message
                assert len(value) in (0, 3), message
                assert all(is_number(each) and each >= 0 for each in value), message
            case "n":
                assert type(value) in (int, float), message
            case "k":
                assert type(value) is Token, message
                well_formed(value)
            case "p":
                assert type(value) is tuple, message
                assert all(map(is_count, value)), message
            case "m":
                assert type(value) is tuple, message
                for delta in value:
                    assert type(delta) is Merged, message
                    well_formed(delta)


EVENTS = (WorkerJoined, DeltaReady, WorkerLost, WorkerDone, TimerFired, StopRequested, Resumed)
ENDS = ("num_clocks", "max_updates", "max_steps", "max_samples")
COMMANDS = (StartClock, StartAhead, Merge, Drop, Cancel, Fence, SetTimer, StopWorker)


def policy_of(header):
    """The policy of a header, which must agree with everything that is said of it."""
    experiment = header["experiment"]
    kinds = {kind.__name__: kind for kind in ALL_POLICIES}
    fields = dict(experiment["policy"])
    name = fields.pop("type")
    kind = kinds.get(name)
    if kind is None:
        written = header["policy"].partition("(")[0]
        assert written not in kinds or name.endswith(f".{written}")
        bound, staleness = header["bound"], header["max_staleness"]
        assert bound is None or is_count(bound)
        assert staleness is None or is_count(staleness)
        assert type(header["reads_own"]) is bool
        assert not header["reads_own"] or experiment["optimizer_on"] == "workers"
        assert type(header["waits_for_own"]) is bool
        assert type(header["gives_weights"]) is bool
        names = ("reads_own", "waits_for_own", "gives_weights")
        return Declared(bound, staleness, *(header[name] for name in names))
    policy = kind(**fields)
    assert all(same(getattr(policy, name), value) for name, value in fields.items())
    assert header["policy"] == repr(policy)
    assert same(header["bound"], policy.guaranteed_bound)
    assert same(header["max_staleness"], policy.guaranteed_staleness(header["num_workers"]))
    on_workers = experiment["optimizer_on"] == "workers"
    assert same(header["reads_own"], policy.reads_own and on_workers)
    assert same(header["waits_for_own"], policy.waits_for_own)
    assert same(header["gives_weights"], policy.gives_weights)
    return policy


def check_schema(header):
    experiment = header["experiment"]
    assert header["name"] is None or type(header["name"]) is str
    assert type(header["policy"]) is str
    assert header["time"] in ("virtual", "wall")
    assert type(header["time"]) is str
    assert header["devices"] == []
    assert header["server"] == []
    assert is_count(header["batch"], 1)
    assert is_count(header["num_workers"], 1)
    assert same(header["num_workers"], experiment["num_workers"])
    assert is_count(header["round_samples"])
    assert type(experiment["optimizer_on"]) is str
    assert experiment["optimizer_on"] in ("workers", "server")
    for name in (*ENDS, "num_epochs"):
        assert experiment[name] is None or is_count(experiment[name], 1)
    assert is_count(experiment["overlap"])
    assert is_count(experiment["seed"])
    weight = experiment["weight"]
    named = ("mean", "sum", "merged", "samples", "tokens")
    assert weight in named if isinstance(weight, str) else is_number(weight)
    steps = experiment["local_steps"]
    assert is_count(steps, 1) or type(steps["type"]) is str


class Judge(Model):
    """The model, told everything by a header, and suspicious of events too."""

    def __init__(self, header):
        check_schema(header)
        experiment = header["experiment"]
        super().__init__(
            policy_of(header),
            Ends(**{name: experiment[name] for name in ENDS}),
            weight=experiment["weight"],
            reads_own=header["reads_own"],
            round_samples=header["round_samples"],
        )
        self.experiment = experiment
        self.workers = header["num_workers"]
        known = isinstance(self.policy, Policy)
        self.chooses = not known or type(self.policy).ready is not Policy.ready
        self.now = -math.inf
        self.stopped_first = False  # by a request, before a total was reached

    @property
    def full(self):
        return self.spent and not self.stopped_first

    @property
    def ended(self):
        return self.stopping or self.full

    def row(self, now, event, commands):
        assert is_number(now)
        assert now >= self.now
        self.now = now
        assert type(event) in EVENTS
        well_formed(event)
        for command in commands:
            assert type(command) in COMMANDS
            well_formed(command)
        self._look_at(event)
        self.event = event
        if isinstance(event, StopRequested) and not self.full:
            self.stopped_first = True
        elif isinstance(event, Resumed):
            self.stopped_first = False
        self.entry(event, list(commands))
        near = self.timer is not None and self.timer - now <= 1e9
        assert self.running() or near or not self.waiting(), "nobody will ever run"

    def _look_at(self, event):
        """Whether an event can be, by what was before."""
        match event:
            case WorkerJoined(worker, donor):
                assert worker not in self.live
                if donor is not None:
                    assert self.live[donor].clock > self.live[donor].entered_at
                assert worker < self.workers
            case WorkerLost(worker):
                assert worker in self.live
            case TimerFired(at):
                assert at == self.timer
                assert self.now >= at
            case DeltaReady() | WorkerDone() if self.is_late(event):
                older = 0 <= event.token.term < self.term and event.token.grant >= 0
                assert older or event.token in [start.token for start in self.starts]
            case Resumed(term):
                assert term == self.term + 1
                clocks = [stay.clock + bool(stay.running) for stay in self.live.values()]
                clocks += [stay.clock for stay in self.gone]
                done = max(clocks, default=0), *self.totals[self.version]
                for name, least in zip(ENDS, done, strict=True):
                    here, before = getattr(event, name), getattr(self.ends, name)
                    kept = here is None or (before is not None and here >= before)
                    assert kept or here >= least
            case DeltaReady():
                running = self.live[event.worker].running
                assert (event.clock, event.version) == (running.clock, running.version)
                assert 1 <= event.steps <= running.local_steps
            case WorkerDone():
                assert event.clock == self.live[event.worker].running.clock
        if isinstance(event, DeltaReady) and not self.policy.needs_norms:
            assert event.norm == 0

    def _order(self, event, commands):
        """The order of commands is the controller's own; here each is looked at by itself."""

    def _grants(self, commands):
        """So is who is granted a clock."""

    def _look_at_command(self, command):
        """What the header allows, before the model takes a command in."""
        experiment = self.experiment
        match command:
            case StartClock() | StartAhead():
                if is_count(experiment["local_steps"]) and self.fixed_steps:
                    assert command.local_steps == experiment["local_steps"]
                if isinstance(command, StartAhead):
                    assert experiment["overlap"] > 0
            case Merge():
                assert not self.full
            case Drop():
                lost = isinstance(self.event, WorkerLost) and self.event.drops
                due = lost and command.worker == self.event.worker
                if isinstance(self.event, DeltaReady):
                    due = not self.event.finite and command.token == self.event.token
                assert self.chooses or self.full or due
            case SetTimer():
                assert self.chooses
            case StopWorker(worker):
                clock = self.live[worker].clock
                assert self.ended or (self.num_clocks is not None and clock >= self.num_clocks)

    @property
    def fixed_steps(self):
        known = isinstance(self.policy, Policy)
        return not known or type(self.policy).local_steps is Policy.local_steps

    def end(self, complete):
        assert type(complete) is bool
        if complete:
            assert not self.running()
            assert not self.waiting()
            assert not self.buffered
            assert self.ended or self.everybody == set(range(self.workers))


def verdict(tape):
    """None if the tape can be; otherwise why not."""
    try:
        judge = Judge(tape.header)
        for now, event, commands in tape:
            judge.row(now, event, commands)
        judge.end(tape.complete)
    except Exception as error:  # nonsense leads anywhere
        return f"{type(error).__name__}: {error}"
    return None
