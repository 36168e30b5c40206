"""What is sent to an actor, so that it makes its party of the run there; and JAX as it is here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax

from jax_ssp.data.feed import Feed
from jax_ssp.placement import Place, Placement
from jax_ssp.rounds import ByRounds
from jax_ssp.runtimes.parties import Blueprint, key_of, make_server, make_workers
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.ray.first_sums import introduce
from jax_ssp.runtimes.ray.numbers import Given
from jax_ssp.runtimes.ray.whole import Whole
from jax_ssp.runtimes.task import Task
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.positions import SliceParts
from jax_ssp.server.share import AllShares, Share
from jax_ssp.slices import Slice
from jax_ssp.worker.successor import numbered
from jax_ssp.worker.worker import Worker

# Settings of JAX that say what is computed, whichever thread has made them.
SETTINGS = (
    *("enable_x64", "default_matmul_precision", "numpy_dtype_promotion", "numpy_rank_promotion"),
    *("default_prng_impl", "threefry_partitionable", "debug_nans", "debug_infs", "disable_jit"),
)
VARIABLES = ("JAX_", "XLA_", "TF_CPP_", "NVIDIA_TF32_OVERRIDE")
"""How the names of environment variables begin that an actor gets from here."""


def settings() -> dict[str, Any]:
    """JAX's settings in this thread, by name."""
    names = ["jax_" + name for name in SETTINGS]
    return {name: getattr(jax.config, name) for name in names if hasattr(jax.config, name)}


def apply(settings: Mapping[str, Any]) -> None:
    """Have these hold in the whole process."""
    for name, value in settings.items():
        if getattr(jax.config, name) != value:
            jax.config.update(name, value)


def variables() -> dict[str, str]:
    """The environment variables that JAX reads here."""
    return {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}


class Seated(NamedTuple):
    """A worker in its actor.

    Attributes:
        worker: itself.
        dealt: who deals its batches, if anybody does.
        whole: cuts its deltas, and puts together what it reads, if its own programs do not.
    """

    worker: Worker
    dealt: Given | None
    whole: Whole | None


class Sent(NamedTuple):
    """A run, as its actors get it.

    Attributes:
        plan, task: of the run, checked, and whole.
        optimizer: that is the server's, where the step's is.
        num_shares: shares of the server.
        fed: whether batches are dealt by the run's ledger, which is not here.
        like: the form of the slices that workers are, if they are slices.
    """

    plan: Plan
    task: Task
    optimizer: ByRounds | None
    num_shares: int
    fed: bool
    like: Slice | None

    def share(self, number: int) -> LocalStore:
        """The store of a share of the server, in this process."""
        place = Share(number, self.num_shares, Placement.host().device, self.like)
        server = make_server(self.plan, self.task, place, self.optimizer)
        return LocalStore(server, self.plan.delta_wire, self.plan.snapshot_wire)

    def worker(self, number: int) -> Seated:
        """A worker on this process's first device, or on a slice of the first ones."""
        plan, task = self.plan, self.task
        device = self._place()
        if isinstance(device, Slice) and device.spans:
            introduce(device)
        feed, dealt = self._feed(number)
        cuts = self._cuts(device)
        here = Placement.host().device
        host: Any = AllShares(here) if cuts else [here] * self.num_shares
        if isinstance(device, Slice):
            host = SliceParts(device, (*(host * device.size),), self.num_shares)
        server = make_server(replace(plan, server_tx=None, delta_tx=None), task, host, None)
        store = LocalStore(server, plan.delta_wire, plan.snapshot_wire)
        store.wants_base = False
        worker = make_workers(plan, task, store, [device], [device], {number: feed})[0]
        return Seated(worker, dealt, Whole(store.shapes, self.num_shares) if cuts else None)

    def _place(self) -> Place:
        """Where a worker computes in this process.

        Raises:
            ValueError: if there are too few devices for its slice.
        """
        here = jax.local_devices()
        if self.like is None:
            return here[0]
        count = jax.process_count()
        size = self.like.size // count
        if len(here) < size:
            raise ValueError(
                f"`Ray(devices_per_worker={self.like.size})`: a process of a worker has "
                f"{len(here)} devices ({Placement.of(here[0]).backend}), and needs {size}. Give it "
                "as many by `gpus_per_worker` or `resources`."
            )
        each = ([d for d in jax.devices() if d.process_index == rank] for rank in range(count))
        return self.like.on([device for devices in each for device in devices[:size]])

    def _cuts(self, device: Place) -> bool:
        """Whether what a worker there deals in is cut into pieces outside of its programs."""
        if isinstance(device, Slice):
            return False
        plan = self.plan
        plain = plan.delta_wire is None and plan.snapshot_wire is None and plan.num_fragments == 1
        return plain and self.num_shares > 1 and Placement.of(device).on_host

    def another(self, spare: Seated, number: int) -> Seated:
        """A worker of another number, of one that has run no clock: see `worker`."""
        feed, dealt = self._feed(number)
        worker = numbered(spare.worker, number, feed, key_of(self.plan, number))
        return Seated(worker, dealt, spare.whole)

    def _feed(self, number: int) -> tuple[Feed, Given | None]:
        data, device = self.task.data, self._place()
        if self.fed:
            dealt = Given()
            return Feed.dealt(data, dealt, device, number), dealt  # pyright: ignore
        assert callable(data)
        return Feed.of(data, device, number), None


def sent(run: Blueprint) -> Sent:
    """What actors get of a run."""
    server_tx, delta_tx = run.plan.transforms()
    given = {each.name: getattr(run.plan, each.name) for each in fields(Plan)}
    del given["runtime"], given["checkpoint"]
    plan = Plan(**{**given, "server_tx": server_tx, "delta_tx": delta_tx})
    shares = run.store.server.parts.num_devices
    task = replace(run.task, evaluate=None, shardings=None)
    like = run.places[0] if isinstance(run.places[0], Slice) else None
    if like is not None:
        shares //= like.size
    return Sent(plan, task, run.optimizer, shares, run.ledger is not None, like)


class Reader:
    """Reads what was sent, in an actor; the same is read once, so its programs are the same."""

    def __init__(self) -> None:
        self._read: tuple[Any, Sent] | None = None

    def read(self, settings: Mapping[str, Any], sent: list[Any]) -> Sent:
        """A run, with JAX as it is where that was begun.

        Args:
            settings: of JAX.
            sent: a reference to it, in a list.
        """
        import ray

        if self._read is None or self._read[0] != sent[0]:
            apply(settings)
            self._read = sent[0], ray.get(sent[0])
        return self._read[1]

    def forget(self) -> None:
        """Let go of it."""
        self._read = None
