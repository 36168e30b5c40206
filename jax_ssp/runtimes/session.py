"""What computes in a run: the workers and the server, made and checked before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any

import jax

from jax_ssp.buckets import of_states
from jax_ssp.controller.tape import Tape
from jax_ssp.data.elastic import check_change
from jax_ssp.data.ledger import Ledger
from jax_ssp.placement import Placement
from jax_ssp.runtimes.budget import (
    check_countable,
    check_counts,
    check_weight_is_free,
    in_samples,
    samples_of_round,
)
from jax_ssp.runtimes.dealing import header_of
from jax_ssp.runtimes.feeds import first_batches, make_feeds
from jax_ssp.runtimes.members import ever, members
from jax_ssp.runtimes.optimizing import check_placed, gradients_of
from jax_ssp.runtimes.parties import Blueprint, make_server, make_workers
from jax_ssp.runtimes.plan import COMPUTED, Plan
from jax_ssp.runtimes.slicing import computing_places, server_places, told_of_slices, worker_places
from jax_ssp.runtimes.states import States
from jax_ssp.runtimes.task import Task
from jax_ssp.server.store import Store
from jax_ssp.trees import digest
from jax_ssp.where import check_one_process, leaving_mesh
from jax_ssp.worker.worker import Worker


@dataclass(frozen=True)
class Session:
    """A run before its first clock: what is to be done, and what computes it.

    Attributes:
        plan: what the run is, checked.
        task: what is trained; its `params` are there.
        num_workers: how many workers there are.
        workers: all of them, the present ones: who comes again takes the place of the one that was
            lost. None where nothing is computed.
        store: where their arrays meet; None where nothing is computed.
        identity: what a replay compares of the computation, beside the plan.
        round_samples: of one synchronous step of all workers; 0 where nothing is computed.
        ledger: deals the batches of an elastic source; None for data of each worker's own.
        guests: workers beyond these that there are for some time: they join a run that has begun,
            or it goes on without them, and computes once more what they pushed last.
    """

    plan: Plan
    task: Task
    num_workers: int
    workers: list[Worker] = field(default_factory=list[Worker])
    store: Store | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    round_samples: int = 0
    ledger: Ledger | None = None
    guests: int = 0

    @property
    def most(self) -> int:
        """How many workers there are in the course of the run."""
        return self.num_workers + self.guests

    @property
    def welcome(self) -> int:
        """How many may be there from now on."""
        return max(self.num_workers, self.plan.runtime.most())

    def close(self) -> None:
        """Let go of what is in other processes; after a run that is done already."""
        if self.store is not None:
            self.store.close()

    def header(self) -> dict[str, Any]:
        """What the tape begins with."""
        policy, runtime = self.plan.policy, self.plan.runtime
        facts = {**self.plan.identity(), "num_workers": self.num_workers}
        server = () if self.store is None else self.store.devices
        seats = [worker.seat for worker in self.workers[: self.num_workers]]
        return {
            "name": self.plan.name,
            "policy": repr(policy),
            "bound": policy.guaranteed_bound,
            "max_staleness": policy.guaranteed_staleness(self.num_workers),
            "reads_own": self.plan.reads_own,
            "waits_for_own": policy.waits_for_own,
            "gives_weights": policy.gives_weights,
            "num_workers": self.num_workers,
            "time": runtime.time,
            "devices": [seat.name for seat in seats],
            "server": [Placement.of(each).name for each in server],
            **told_of_slices(seats),
            "batch": runtime.batch,
            "round_samples": self.round_samples,
            **runtime.told(self.num_workers),
            **({} if self.ledger is None else header_of(self.task.data)),
            "experiment": {**facts, **self.identity},
        }

    def states(self) -> States | None:
        """What the optimizers have come to; None where nothing is computed."""
        if self.store is None:
            return None
        states = [worker.replica.state for worker in self.workers]
        layout = of_states(self.store.layout, self.task.step.init)
        return States.of(states, layout, *self.store.states)


def make_session(plan: Plan, task: Task, before: Tape | None = None) -> Session:
    """Check plan and task, then make the workers and the server, where something is computed.

    Args:
        plan: of the run.
        task: what is trained.
        before: the rows that there are of it, if it goes on; it may have had other workers.

    Raises:
        TypeError, ValueError: naming what is wrong and the remedy, before any device computes.
    """
    plan = plan.checked()
    task.check()
    plan.check_evaluates(task)
    runtime = plan.runtime
    num_workers = runtime.count()
    plan.policy.check(num_workers)
    check_change(task.data, num_workers, runtime.most())
    if before is not None:
        check_change(task.data, len(members(before)), num_workers)
    there = max(num_workers, 0 if before is None else ever(before))
    most = max(there, runtime.most())
    check_placed(plan)
    check_weight_is_free(plan)
    if not runtime.computes:
        check_countable(plan)
        return Session(plan, task, num_workers, guests=most - num_workers)
    check_one_process()
    task = _whole_task(task)
    plan = in_samples(plan, task)
    task, optimizer = gradients_of(plan, task)
    recorded = list(islice(cycle(worker_places(runtime, task)), most))
    server = server_places(plan.placement, runtime, recorded)
    devices = computing_places(plan.placement, recorded, server)
    feeds, ledger = make_feeds(task, devices)
    check_counts(plan, task.step, feeds[:num_workers])
    if plan.checkpoint is not None:
        for feed in feeds:
            feed.check_goes_back()
    store = runtime.store(plan, make_server(plan, task, server, optimizer))
    run = Blueprint(plan, task, optimizer, store, feeds, ledger, recorded, there)
    made = runtime.elsewhere(run)
    if made is None:
        workers = make_workers(plan, task, store, recorded, devices, dict(enumerate(feeds)))
    else:
        store, workers = made
    round_samples = samples_of_round(plan, feeds[:num_workers])
    parties = workers, store, {}, round_samples, ledger
    session = Session(plan, task, num_workers, *parties, guests=most - num_workers)
    try:
        batches = first_batches(task, feeds[:num_workers])
        return replace(session, identity=_identity(task, batches, store, workers))
    except BaseException:  # such as a step that cannot be traced
        session.close()
        raise


def _identity(
    task: Task, batches: Any, store: Store, workers: Sequence[Worker]
) -> Mapping[str, Any]:
    """What a replay compares of what is computed."""
    identity = {
        "params": digest(*jax.tree.leaves(task.params)),
        "batches": batches,
        "step": workers[0].warmup.digest(),
        "server_tx": digest(store.program()),
        "jax": jax.__version__,
        "platforms": sorted({worker.seat.name[0] for worker in workers}),
    }
    assert {"num_workers", *identity} == {*COMPUTED}
    return identity


def _whole_task(task: Task) -> Task:
    """The task, with nothing missing."""
    if task.params is None:
        task = replace(task, params=getattr(task.step, "params", None))
    for name in ("step", "params", "data"):
        if getattr(task, name) is None:
            raise ValueError(
                f"`train({name}=...)` is missing; only `Virtual(compute=False)` goes without."
            )
    return task


def rehearse(plan: Plan, task: Task) -> list[dict[str, Any]]:
    """Compile one clock on each device, run it, and train nothing.

    Args:
        plan: of the run.
        task: what would be trained.

    Returns:
        One row a device: `device`, `workers` on it, and what `Warmup.rehearse` measures.

    Raises:
        ValueError: as `train` does, or if the runtime computes nothing.
    """
    with leaving_mesh():
        session = make_session(plan, task)
    if not session.workers:
        raise ValueError("there is nothing to compile: the runtime runs the clockwork alone.")
    first = {worker.device: worker for worker in reversed(session.workers)}
    count = Counter(worker.device for worker in session.workers)
    with closing(session):
        return [
            {
                "device": Placement.of(device).text,
                "workers": count[device],
                **worker.warmup.rehearse(),
            }
            for device, worker in sorted(first.items(), key=lambda item: item[1].index)
        ]
