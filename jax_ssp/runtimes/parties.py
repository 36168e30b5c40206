"""Makes the parties of a run: its server or a share of it, and its workers, all of them or some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax

from jax_ssp.data.feed import Feed
from jax_ssp.data.ledger import Ledger
from jax_ssp.placement import Place, Placement
from jax_ssp.policies import Policy
from jax_ssp.rounds import ByRounds
from jax_ssp.runtimes import rules
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.rules import maybe
from jax_ssp.runtimes.task import Task
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.memory import Memory
from jax_ssp.server.positions import SliceParts
from jax_ssp.server.server import Server
from jax_ssp.server.share import AllShares, Share
from jax_ssp.server.store import Store
from jax_ssp.server.transforms import NeedsLoss
from jax_ssp.slices import Slice
from jax_ssp.worker.clock import averaged_leaves
from jax_ssp.worker.exchange import Exchange
from jax_ssp.worker.needs import Needs
from jax_ssp.worker.outbox import Seat
from jax_ssp.worker.program import frozen_of, program_of
from jax_ssp.worker.warmup import first_replica
from jax_ssp.worker.worker import Worker


class Blueprint(NamedTuple):
    """Of a run, what its parties are made of, for runtimes that make them elsewhere.

    Attributes:
        plan: of the run, checked.
        task: what is trained, with nothing missing.
        optimizer: in place of the plan's `server_tx`, where the step's is with the server.
        store: one in this process, for the form of what is in it.
        feeds: of all workers, in this process.
        ledger: that deals their batches, if one does.
        places: of all workers, as far as they are known in this process.
        there: how many of them there are, or were before, in a run that goes on; others may join.
    """

    plan: Plan
    task: Task
    optimizer: ByRounds | None
    store: LocalStore
    feeds: Sequence[Feed]
    ledger: Ledger | None
    places: Sequence[Place]
    there: int


def make_server(
    plan: Plan,
    task: Task,
    devices: Sequence[jax.Device] | SliceParts | Share | AllShares,
    optimizer: ByRounds | None,
) -> Server:
    """The server of a run, or a share of it.

    Args:
        plan: of the run, checked.
        task: what is trained, with nothing missing.
        devices: where it merges.
        optimizer: in place of the plan's `server_tx`, where the step's is with the server.

    Raises:
        TypeError, ValueError: if a transform cannot be a server's.
    """
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
            fragments=plan.fragments,
        )
    except NeedsLoss as error:
        if optimizer is None:
            raise
        raise TypeError(
            '`optimizer_on="server"`: the optimizer wants the loss, or to compute it, and the '
            f'server has none; leave it with the workers: `optimizer_on="workers"`. ({error})'
        ) from error


def make_workers(
    plan: Plan,
    task: Task,
    store: Store,
    recorded: Sequence[Place],
    devices: Sequence[Place],
    feeds: Mapping[int, Feed],
) -> list[Worker]:
    """Workers of a run before their first clocks.

    Args:
        plan: of the run, checked.
        task: what is trained, with nothing missing.
        store: where their arrays meet; they begin with its version 0.
        recorded: the device or slice that the tape names for each.
        devices: where each computes.
        feeds: of each, by its number.
    """
    assert task.step is not None  # as has been seen
    first_place = devices[0]
    specs = first_place.params if isinstance(first_place, Slice) else None
    program = program_of(task.step, store.layout, specs)
    delta = jax.eval_shape(store.layout.delta_like, store.shapes)
    memory = {device: Memory(delta, device) for device in devices}
    frozen = {device: Placement.of(device).put(frozen_of(task.step)) for device in {*devices}}
    exchange = exchange_of(plan)
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
            first_replica(program, store.wire, first, key_of(plan, index), device),
        )
        for (index, feed), each, device in zip(feeds.items(), recorded, devices, strict=True)
    ]
    first.release()  # with their first clock they adopt a version of their own
    return workers


def key_of(plan: Plan, index: int) -> jax.Array:
    """The key of the worker of this number."""
    return jax.random.fold_in(jax.random.key(plan.seed), index)


def exchange_of(plan: Plan) -> Exchange:
    """The part of a plan that is a worker's own."""
    policy, overlap = plan.policy, plan.overlap
    if type(policy).local_steps is not Policy.local_steps or plan.schedule.at(0) is None:
        overlap = min(overlap, 1)  # H of the next clock is not known before it starts
    needs = Needs(plan.reads_own, policy.needs_norms, policy.cancels)
    return Exchange(plan.schedule.usual, plan.weight, needs, plan.num_clocks, overlap, plan.adopt)
