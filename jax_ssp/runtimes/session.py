"""What computes in a run: the workers and the server, made and checked before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from jax_ssp.data.feed import Feed, kind_of
from jax_ssp.placement import Placement, Where, check_no_mesh, check_one_process
from jax_ssp.policies import Policy
from jax_ssp.rounds import ByRounds
from jax_ssp.runtimes import rules
from jax_ssp.runtimes.base import Runtime
from jax_ssp.runtimes.budget import check_countable, in_samples, samples_of_round
from jax_ssp.runtimes.faults import not_finite
from jax_ssp.runtimes.optimizing import check_placed, gradients_of
from jax_ssp.runtimes.plan import COMPUTED, Plan, Task
from jax_ssp.runtimes.rules import maybe
from jax_ssp.runtimes.states import States
from jax_ssp.server.memory import Memory
from jax_ssp.server.server import Server
from jax_ssp.server.store import Store
from jax_ssp.server.transforms import NeedsLoss
from jax_ssp.trees import digest
from jax_ssp.worker.check import check_step
from jax_ssp.worker.clock import averaged_leaves
from jax_ssp.worker.exchange import Exchange
from jax_ssp.worker.needs import Needs
from jax_ssp.worker.outbox import Seat
from jax_ssp.worker.program import frozen_of, program_of
from jax_ssp.worker.warmup import first_replica
from jax_ssp.worker.worker import Worker


@dataclass(frozen=True)
class Session:
    """A run before its first clock: what is to be done, and what computes it.

    Attributes:
        plan: what the run is, checked.
        task: what is trained; its `params` are there.
        num_workers: how many workers there are.
        workers: all of them; none where nothing is computed.
        store: where their arrays meet; None where nothing is computed.
        identity: what a replay compares of the computation, beside the plan.
        round_samples: of one synchronous step of all workers; 0 where nothing is computed.
    """

    plan: Plan
    task: Task
    num_workers: int
    workers: Sequence[Worker] = ()
    store: Store | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    round_samples: int = 0

    def header(self) -> dict[str, Any]:
        """What the tape begins with."""
        policy, runtime = self.plan.policy, self.plan.runtime
        facts = {**self.plan.identity(), "num_workers": self.num_workers}
        server = () if self.store is None else self.store.devices
        return {
            "name": self.plan.name,
            "policy": repr(policy),
            "bound": policy.guaranteed_bound,
            "max_staleness": policy.guaranteed_staleness(self.num_workers),
            "reads_own": self.plan.reads_own,
            "waits_for_own": policy.waits_for_own,
            "num_workers": self.num_workers,
            "time": runtime.time,
            "devices": [Placement.of(worker.recorded).name for worker in self.workers],
            "server": [Placement.of(each).name for each in server],
            "batch": runtime.batch,
            "round_samples": self.round_samples,
            **not_finite(runtime.faults),
            "experiment": {**facts, **self.identity},
        }

    def states(self) -> States | None:
        """What the optimizers have come to; None where nothing is computed."""
        if self.store is None:
            return None
        return States.of([worker.replica.state for worker in self.workers], *self.store.states)


def make_session(plan: Plan, task: Task) -> Session:
    """Check plan and task, then make the workers and the server, where something is computed.

    Raises:
        TypeError, ValueError: naming what is wrong and the remedy, before any device computes.
    """
    plan = plan.checked()
    task.check()
    plan.check_evaluates(task)
    runtime = plan.runtime
    num_workers = runtime.count()
    plan.policy.check(num_workers)
    check_placed(plan)
    if not runtime.computes:
        check_countable(plan)
        return Session(plan, task, num_workers)
    check_one_process()
    check_no_mesh()
    task = _whole_task(task)
    plan = in_samples(plan, task)
    task, optimizer = gradients_of(plan, task)
    recorded = runtime.worker_devices()
    server = _server_devices(plan.placement, runtime, recorded)
    devices = _computing_devices(plan.placement, recorded, server)
    feeds = _feeds(task, devices)
    store = runtime.store(plan, _server(plan, task, server, optimizer))
    workers = _workers(plan, task, store, recorded, devices, feeds)
    identity = {
        "params": digest(*jax.tree.leaves(task.params)),
        "batches": [digest(*jax.tree.leaves(feed.peek())) for feed in feeds],
        "step": digest(workers[0].lower().as_text(), *jax.tree.leaves(frozen_of(task.step))),
        "server_tx": digest(store.program()),
        "jax": jax.__version__,
        "platforms": sorted({Placement.of(device).backend for device in devices}),
    }
    assert {"num_workers", *identity} == {*COMPUTED}
    round_samples = samples_of_round(plan, feeds)
    return Session(plan, task, num_workers, workers, store, identity, round_samples)


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


def _server(
    plan: Plan, task: Task, devices: Sequence[jax.Device], optimizer: ByRounds | None
) -> Server:
    server_tx, delta_tx = plan.transforms()
    assert task.step is not None  # as has been seen
    try:
        return Server(
            task.params,
            maybe(rules.transform)("server_tx", server_tx) if optimizer is None else optimizer,
            delta_tx=maybe(rules.transform)("delta_tx", delta_tx),
            weight=plan.weight,
            device=devices,
            averaged=averaged_leaves(task.step, task.params),
            views=getattr(task.step, "views", None),
        )
    except NeedsLoss as error:
        if optimizer is None:
            raise
        raise TypeError(
            '`optimizer_on="server"`: the optimizer wants the loss, or to compute it, and the '
            f'server has none; leave it with the workers: `optimizer_on="workers"`. ({error})'
        ) from error


def _workers(
    plan: Plan,
    task: Task,
    store: Store,
    recorded: Sequence[jax.Device],
    devices: Sequence[jax.Device],
    feeds: Sequence[Feed],
) -> list[Worker]:
    assert task.step is not None  # as has been seen
    program = program_of(task.step, store.layout)
    policy, overlap = plan.policy, plan.overlap
    if type(policy).local_steps is not Policy.local_steps or plan.schedule.at(0) is None:
        overlap = min(overlap, 1)  # H of the next clock is not known before it starts
    needs = Needs(plan.reads_own, policy.needs_norms, policy.cancels)
    delta = jax.eval_shape(store.layout.delta_like, store.shapes)
    memory = {device: Memory(delta, device) for device in devices}
    frozen = {device: Placement.of(device).put(frozen_of(task.step)) for device in {*devices}}
    exchange = Exchange(
        plan.schedule.usual, plan.weight, needs, plan.num_clocks, overlap, plan.adopt
    )
    key = jax.random.key(plan.seed)
    first = store.snapshot(0)
    workers = [
        Worker(
            index,
            Seat(each, device, store.devices, frozen[device]),
            program,
            feed,
            exchange,
            store.wire,
            memory[device],
            first_replica(program, store.wire, first, jax.random.fold_in(key, index), device),
        )
        for index, (each, device, feed) in enumerate(zip(recorded, devices, feeds, strict=True))
    ]
    first.release()  # with their first clock they adopt a version of their own
    return workers


def _feeds(task: Task, devices: Sequence[jax.Device]) -> list[Feed]:
    """The batches of each worker, with one of each kind tried on the step by its shapes."""
    step, data = task.step, task.data
    assert step is not None  # as has been seen
    assert data is not None
    feeds = [Feed(data(worker), device, worker) for worker, device in enumerate(devices)]
    shards = getattr(data, "num_workers", len(devices))
    if shards != len(devices):
        raise ValueError(
            f"`train(data=...)` is split over {shards} workers, but the run has {len(devices)}; "
            "give both the same number."
        )
    owners: dict[int, int] = {}
    for worker, feed in enumerate(feeds):
        other = owners.setdefault(id(feed.iterator), worker)
        if other != worker:
            raise ValueError(
                "`data` must give each worker an iterator of its own, but workers "
                f"{other} and {worker} got the same; make it anew in each call `data(worker)`."
            )
    for feed in {kind_of(feed.peek()): feed for feed in reversed(feeds)}.values():
        check_step(step, task.params, feed.peek())
    return feeds


def _server_devices(
    placement: Where, runtime: Runtime, devices: Sequence[jax.Device]
) -> list[jax.Device]:
    """The devices that a placement means."""
    if placement is None:
        return runtime.server_devices(devices)
    if placement == "devices":
        return list(dict.fromkeys(devices))
    return [Placement.at(placement, "placement").device]


def _computing_devices(
    placement: Where, recorded: Sequence[jax.Device], server: Sequence[jax.Device]
) -> list[jax.Device]:
    """The JAX device that each worker's programs run on.

    Devices of the CPU backend are names for the same cores and the same memory, and programs given
    to one of them run beside each other all the same. So with a server on the host, workers on any
    of them compute where it is: nothing has to travel, and one compilation serves them all.
    """
    if placement not in (None, "host"):
        return list(recorded)
    first = Placement.of(server[0])
    return [server[0] if Placement.of(each).shares_memory(first) else each for each in recorded]


def rehearse(plan: Plan, task: Task) -> list[dict[str, Any]]:
    """Compile one clock on each device, run it, and train nothing.

    Args:
        plan: of the run.
        task: what would be trained.

    Returns:
        One row a device: `device`, `workers` on it, and what `Worker.rehearse` measures.

    Raises:
        ValueError: as `train` does, or if the runtime computes nothing.
    """
    session = make_session(plan, task)
    if not session.workers:
        raise ValueError("there is nothing to compile: the runtime runs the clockwork alone.")
    first = {worker.device: worker for worker in reversed(session.workers)}
    count = Counter(worker.device for worker in session.workers)
    return [
        {"device": str(device), "workers": count[device], **worker.rehearse()}
        for device, worker in sorted(first.items(), key=lambda item: item[1].index)
    ]
