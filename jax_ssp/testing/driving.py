"""A controller that is driven through any schedule, and judged at every answer."""

from __future__ import annotations

import random
from dataclasses import astuple, fields
from typing import Any

from jax_ssp.controller import (
    Controller,
    Ends,
    Resumed,
    StartClock,
    StopRequested,
    TimerFired,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.weight import Weight
from jax_ssp.policies import Policy
from jax_ssp.testing.model import Model
from jax_ssp.testing.require import require

MOST_WORKERS = 6  # that a run has, over time


def promises(
    policy: Policy,
    weight: Weight = "mean",
    round_samples: int = 0,
    reads_own: bool = True,
    fragments: int = 1,
) -> dict[str, Any]:
    """What a tape's header says of its policy, of the weight and of rounds."""
    return {
        "bound": policy.guaranteed_bound,
        "max_staleness": policy.guaranteed_staleness(MOST_WORKERS),
        "reads_own": policy.reads_own and reads_own,
        "waits_for_own": policy.waits_for_own,
        "gives_weights": policy.gives_weights,
        "round_samples": round_samples,
        "experiment": {
            "weight": weight,
            "optimizer_on": "workers" if reads_own else "server",
            "fragments": {"number": fragments},
        },
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
        samples, own = limits.get("round_samples", 0), limits.get("reads_own", True)
        fragments = limits.get("fragments", 1)
        self.model = Model(policy, ends, grant_ahead, weight, own, samples, fragments)
        self.tape = Tape(promises(policy, weight, samples, own, fragments))
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

    def running(self, worker: int) -> StartClock:
        """What this worker, which runs, was told."""
        start = self.model.live[worker].running
        if start is None:
            raise ValueError(f"worker {worker} does not run")
        return start

    def finish(self, worker: int, after: float = 0.0, finite: bool = True) -> list[Command]:
        """This running worker finishes its clock."""
        start = self.running(worker)
        norm = 1.0 + start.clock % 3 if self.model.policy.needs_norms else 0.0
        samples = start.local_steps * (2 + worker % 3)
        tokens = start.local_steps * (5 + (worker + start.clock) % 4)
        report = {"norm": norm, "samples": samples, "finite": finite, "tokens": tokens}
        return self.handle(start.finished(**report), after)

    def fire_timer(self) -> list[Command]:
        at = self.model.timer
        if at is None:
            raise ValueError("no timer is set")
        return self.handle(TimerFired(at), max(0.0, at - self.now))

    def resume(self, ends: Ends | None = None, after: float = 0.0) -> list[Command]:
        """Another process goes on with the run, to these ends; by default to those it has."""
        ends = self.model.ends if ends is None else ends
        return self.handle(Resumed(self.model.term + 1, *astuple(ends)), after)

    def drain(self) -> Tape:
        """Stop the run, let everybody finish; gives its complete tape."""
        self.handle(StopRequested("the test is over"))
        while running := self.model.running():
            self.finish(running[0])
        require(self.controller.done, "all have finished, and the run is not over")
        self.tape.complete = True
        return self.tape


def done(start: StartClock) -> WorkerDone:
    """There is no data for this clock."""
    return WorkerDone(start.worker, start.clock, start.token)


def random_run(
    policy: Policy,
    seed: int,
    *,
    workers: int = 4,
    events: int = 60,
    losses: bool = False,
    resumes: bool = False,
    spoiled: float = 0.0,
    **limits: Any,
) -> Run:
    """A run of that many events in any order; see `drive`."""
    run = Run(policy, workers=workers, **limits)
    rng = random.Random(seed)
    about = {"workers": workers, "events": events, "losses": losses, "resumes": resumes}
    drive(run, rng, **about, spoiled=spoiled)
    return run


def drive(
    run: Run,
    rng: random.Random,
    *,
    workers: int,
    events: int,
    losses: bool,
    resumes: bool = False,
    spoiled: float = 0.0,
) -> None:
    """Let that many events happen in any order.

    Args:
        run: to be driven.
        rng: draws what happens.
        workers: that there are, at most.
        events: to happen.
        losses: whether workers go, have no more data, come back, and push late.
        resumes: whether other processes go on with the run, to ends that may be raised.
        spoiled: share of the deltas that are not finite.
    """
    for _ in range(events):
        running, timer = run.model.running(), run.model.timer
        if losses and rng.random() < 0.15:
            worker = rng.randrange(workers)
            here = worker in run.model.live
            lost = WorkerLost(worker, "it is tested", drops=rng.random() < 0.25)
            run.handle(lost if here else WorkerJoined(worker), 0.25)
        elif losses and rng.random() < 0.05 and run.model.starts:
            start = rng.choice(run.model.starts)
            late = start.finished() if rng.random() < 0.7 else done(start)
            if run.model.is_late(late):
                run.handle(late, 0.25)
        elif resumes and rng.random() < 0.04:
            run.resume(raised(run.model.ends, rng), 0.25)
        elif losses and running and rng.random() < 0.05:
            run.handle(done(run.running(rng.choice(running))), 0.25)
        elif timer is not None and (not running or rng.random() < 0.2):
            run.fire_timer()
        elif running:
            finite = not spoiled or rng.random() >= spoiled
            run.finish(rng.choice(running), rng.choice((0.0, 0.5, 1.0)), finite)


def raised(ends: Ends, rng: random.Random) -> Ends:
    """The ends that a run is resumed to: some of them raised, or gone."""
    more = (lambda end: end, lambda end: end, lambda end: end and end + 3, lambda end: None)
    return Ends(*(rng.choice(more)(end) for end in astuple(ends)))
