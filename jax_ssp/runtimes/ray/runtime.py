"""Ray as a runtime: each worker in an actor with a JAX of its own, on one machine or on many."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro

from jax_ssp.checks import (
    choice,
    function,
    instance,
    integer,
    number,
    optional,
    put,
    seed,
    shown,
    text,
)
from jax_ssp.delays import CALL, DelayModel, check_delay
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.placement import Placement
from jax_ssp.runtimes.base import World
from jax_ssp.runtimes.faults.fates import fates_of
from jax_ssp.runtimes.faults.told import check_faults, check_workers
from jax_ssp.runtimes.faults.typed import Faults
from jax_ssp.runtimes.ray.cluster import amounts, beside_driver, check_room, connect, the_ray
from jax_ssp.runtimes.recovery import Recovery, check_enough, donates
from jax_ssp.runtimes.running import Running
from jax_ssp.runtimes.runtime import Parties, Runtime
from jax_ssp.runtimes.slicing import axes_asked, check_slices, mesh_elsewhere
from jax_ssp.runtimes.wall import WallClock
from jax_ssp.slices import Slices
from jax_ssp.where import checked_axes

if TYPE_CHECKING:
    from jax_ssp.runtimes.parties import Blueprint
    from jax_ssp.server.store import Store

MOST = 4096  # workers, of which each has a thread here


@dataclass(frozen=True)
class Ray(Runtime):
    """Workers in Ray actors, each a process with a JAX and accelerators of its own.

    The loop and the controller are in the process that calls `train`, or in an actor too. A worker
    is never part of a collective with others, so what becomes of its process is its own affair:
    with a `recovery`, which there is by default, it is lost to the run and comes again in a new
    process.

    Args:
        num_workers: how many begin the run; the cluster must have room for them.
        max_workers: how many there may be: the others join once the cluster has room for them, for
            which its autoscaler is asked, and nobody waits. They come and go with their machines.
            By default none joins later.
        server_shards: in how many actors the server merges, each with a share of the parameters, by
            bytes. With more than one, its transforms must be elementwise.
        controller: where the controller, the loop, the tape and the checkpoints are: "driver", the
            process that calls `train`, or "actor", a process of its own on the same machine. If
            that ends, and the run has checkpoints, it is made again (`recovery`), and goes on from
            the newest. Observers travel there, but for those that stay (see `Observer`).
        address: of a cluster, or "auto" for the one that this machine is part of; by default one on
            this machine alone, reachable from nowhere else, which ends with this process.
        cpus_per_worker, gpus_per_worker: what Ray reserves for a worker; less than one GPU shares
            it. With no GPUs a worker computes on the CPU of its machine; by default one on a slice
            has as many as that has devices, if the cluster has any, and one on a single device has
            none. On a cluster of this machine alone no cores are reserved.
        resources: others, by Ray's names for them, such as TPU 4.
        devices_per_worker, axes, shardings, batch_spec: a worker is a *slice* of so many devices of
            its process; see `Devices`. On the CPU the process has as many CPU devices.
        processes_per_worker: the slice is of the devices of so many processes, on one machine or on
            several; each has an equal share of them, and of what is reserved for the worker.
        working_dir: a folder that Ray copies to every machine of the cluster, where it is the
            working directory and can be imported from: modules and files that no package installs.
        spares: processes that are ready, with what they run compiled, to take the place of one that
            is lost; each takes what a worker takes.
        delay: a delay model to inject: a clock takes at least as long as it says (seconds).
        seed: of the injected delays.
        faults: what goes wrong (see `ssp.faults`).
        recovery: what becomes of a worker whose process ends, hangs or fails (see `ssp.Recovery`);
            None has its error end the run.

    Raises:
        ValueError: if a number is out of range; `train` raises it if the cluster has less than the
            run's actors take.
        ImportError: `train` raises it if Ray is not installed.

    Example:
        >>> Ray(num_workers=4, server_shards=2).time
        'wall'
    """

    num_workers: int = 2
    max_workers: int | None = None
    server_shards: int = 1
    controller: Literal["driver", "actor"] = "driver"
    address: str | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None
    resources: Mapping[str, float] | None = field(default=None, hash=False)
    devices_per_worker: int = 1
    processes_per_worker: int = 1
    axes: Mapping[str, int] | None = field(default=None, hash=False)
    shardings: Annotated[Any, tyro.conf.Suppress] = field(default=None, hash=False)
    batch_spec: Annotated[Any, tyro.conf.Suppress] = field(default=None, hash=False)
    working_dir: str | None = None
    spares: int = 0
    delay: DelayModel = None
    seed: int = 0
    faults: Faults = ()
    recovery: Recovery | None = Recovery()  # noqa: RUF009 (immutable)

    def __post_init__(self) -> None:
        put(self, "num_workers", integer, least=1, most=MOST)
        put(self, "max_workers", optional, integer, least=1, most=MOST)
        put(self, "server_shards", integer, least=1, most=MOST)
        put(self, "controller", choice, ("driver", "actor"))
        put(self, "address", optional, text)
        put(self, "working_dir", optional, text)
        if self.working_dir is not None and not os.path.isdir(self.working_dir):
            raise ValueError(f"`working_dir` must be a folder, got {shown(self.working_dir)}.")
        put(self, "spares", integer, least=0, most=MOST)
        put(self, "cpus_per_worker", number, least=0)
        put(self, "gpus_per_worker", optional, number, least=0)
        put(self, "resources", optional, amounts)
        put(self, "devices_per_worker", integer, least=1, most=MOST)
        put(self, "processes_per_worker", integer, least=1, most=MOST)
        if self.axes is not None:
            put(self, "axes", checked_axes)
        self._check_slices()
        put(self, "seed", seed)
        put(self, "faults", check_faults)
        put(self, "recovery", optional, instance, Recovery, "None or `ssp.Recovery(...)`")
        self._check_most()
        if self.delay is not None:
            put(self, "delay", function, CALL)

    def _check_slices(self) -> None:
        """Raise ValueError if workers cannot be slices as it is said."""
        check_slices("Ray", self)
        size, gpus, processes = self.slice_size, self.gpus_per_worker, self.processes_per_worker
        if size % processes:
            raise ValueError(
                f"`Ray(processes_per_worker={processes}, devices_per_worker={size})`: each process "
                f"has as many devices as the others. Make {size} devices a multiple of {processes}."
            )
        if self.slice_axes is not None and gpus not in (None, 0, size):
            raise ValueError(
                f"`Ray(gpus_per_worker={gpus:g}, devices_per_worker={size})`: a worker on a slice "
                f"has a GPU for each of its devices, or none. Leave it out, or give {size} or 0."
            )

    def _check_most(self) -> None:
        """Raise ValueError if workers cannot join later as it is said."""
        most = self.max_workers
        if most is not None and most < self.num_workers:
            raise ValueError(
                f"`Ray(max_workers={most})` counts those that begin the run too, of which there "
                f"are {self.num_workers}: give at least so many, or a smaller `num_workers`."
            )
        if most is not None and self.recovery is None:
            raise ValueError(
                f"`Ray(max_workers={most}, recovery=None)`: who joins later may be lost with its "
                "machine, which is to be no error of the run. Give `ssp.Recovery(...)`."
            )

    @property
    def slice_axes(self) -> Mapping[str, int] | None:
        """The axes of a worker's slice; None where each has one device."""
        return axes_asked(self.devices_per_worker, self.axes)

    @property
    def slice_size(self) -> int:
        """Of how many devices a worker is."""
        return math.prod((self.slice_axes or {}).values())

    @property
    def time(self) -> str:
        return "wall"

    def donates(self, progress: bool) -> bool:
        return donates(self.recovery, progress)

    def count(self) -> int:
        count = self.num_workers
        the_ray()
        check_delay(self.delay, self.most())
        check_workers("Ray", self.faults, self.most())
        check_enough("Ray", self.recovery, count)
        return count

    def most(self) -> int:
        return self.num_workers if self.max_workers is None else self.max_workers

    def worker_devices(self) -> list[jax.Device]:
        """Stand-ins: a worker's device is in its actor, which names it once it is there."""
        return [Placement.host().device] * self.num_workers

    def worker_slices(self) -> Slices | None:
        if self.slice_axes is None:
            return None
        meshes = [mesh_elsewhere(self.slice_axes)] * self.num_workers
        return Slices(meshes, self.shardings, self.batch_spec)

    def server_shares(self, size: int) -> int:
        return self.server_shards

    def server_devices(self, devices: Sequence[jax.Device]) -> list[jax.Device]:
        return [Placement.host().device] * self.server_shards

    def carry_out(self, run: Callable[..., Any], *given: Any) -> Any:
        if self.controller == "driver":
            return super().carry_out(run, *given)
        from jax_ssp.runtimes.ray.carried import carried_out

        return carried_out(run, *given)

    def elsewhere(self, run: Blueprint) -> tuple[Store, list[Any]]:
        from jax_ssp.runtimes.ray.actors import Room
        from jax_ssp.runtimes.ray.parties import parties

        self._check_run(run)
        there = connect(self.address, self.working_dir)
        options = self.worker_options(there)
        each = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], **options["resources"]}
        # Shares of the server take no core of their own.
        count = (self.num_workers + self.spares) * self.processes_per_worker
        check_room({name: count * size for name, size in each.items() if size}, there)
        sliced = self.slice_axes is not None
        devices = (self.slice_size, self.processes_per_worker) if sliced else None
        alone, shares = self.address is None, {"num_cpus": 0}
        if not alone and (self.server_shards == 1 or self.max_workers is not None):
            shares |= beside_driver()  # no run goes on without that machine
        counts = self.spares, self.server_shards, self.num_workers
        return parties(run, Room(options, shares, devices, alone, *counts))

    def _check_run(self, run: Blueprint) -> None:
        """Raise ValueError if a run cannot be had here, before anything starts."""
        if run.plan.placement is not None:
            raise ValueError(
                f"`placement={run.plan.placement!r}` says where in one process the server lives; "
                "with `Ray` it is in actors: leave it out, and say `server_shards`."
            )
        if self.server_shards > 1 and run.store.server.versions.merging.drops:
            raise ValueError(
                f"`Ray(server_shards={self.server_shards})`: a transform drops deltas, and whether "
                "it drops one, so that it brings no statistics either, is seen in all of it. Give "
                "`server_shards=1`."
            )
        for feed in run.feeds if self.recovery is not None else ():
            feed.check_goes_back()
        if self.processes_per_worker > 1 and run.plan.delta_wire is not None:
            raise ValueError(
                "`Ray(processes_per_worker=...)` and `delta_wire` cannot both be had yet: what a "
                "wire made of a delta is needed by all processes of its worker. Leave one out."
            )

    @property
    def cpus(self) -> float:
        """Cores that are reserved for a worker: on this machine alone, none."""
        return 0.0 if self.address is None else self.cpus_per_worker

    def worker_options(self, there: Mapping[str, float]) -> dict[str, Any]:
        """What Ray gives each actor of a worker, on a cluster that has this."""
        gpus = self.gpus_per_worker
        if gpus is None:
            gpus = self.slice_size if self.slice_axes is not None and there.get("GPU") else 0
        share = 1 / self.processes_per_worker
        resources = {name: each * share for name, each in (self.resources or {}).items()}
        return {"num_cpus": self.cpus * share, "num_gpus": gpus * share, "resources": resources}

    def open(self, session: Parties) -> World:
        from jax_ssp.runtimes.ray.fed import Vacant
        from jax_ssp.runtimes.ray.parties import RayThreads, RayWorld
        from jax_ssp.runtimes.ray.sharded import ShardedStore

        fates = fates_of(self.faults, session.most)
        clock = WallClock(session.num_workers, fates)
        delays = None if self.delay is None else DelayDraws(self.delay, self.seed, session.most)
        running = Running(session, clock, delays, fates)
        vacant = [each.index for each in session.workers if isinstance(each.feed, Vacant)]
        assert isinstance(session.store, ShardedStore)
        late = range(self.num_workers, self.most())
        given = session.workers, running, clock, self.recovery, vacant, late
        threads = RayThreads(session.store, *given)
        return RayWorld(clock, threads, fates, session)
