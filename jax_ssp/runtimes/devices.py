"""Real devices: one host thread a worker, dispatch independent of the others."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import tyro
from jax.sharding import Mesh

from jax_ssp.checks import function, instance, integer, optional, put, seed
from jax_ssp.delays import CALL, DelayModel, check_delay
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.delays.network import NETWORK, Network
from jax_ssp.placement import Placement
from jax_ssp.runtimes.base import World
from jax_ssp.runtimes.faults.fates import fates_of
from jax_ssp.runtimes.faults.told import check_faults, check_workers
from jax_ssp.runtimes.faults.typed import Faults
from jax_ssp.runtimes.pacing import PacedClock
from jax_ssp.runtimes.recovery import Recovery, check_enough, donates
from jax_ssp.runtimes.running import Running
from jax_ssp.runtimes.runtime import Parties, Runtime
from jax_ssp.runtimes.slicing import axes_asked, check_slices, meshes_on
from jax_ssp.runtimes.threads import Threads
from jax_ssp.runtimes.traffic import Traffic
from jax_ssp.runtimes.wall import WallClock
from jax_ssp.shardings import axes_of
from jax_ssp.slices import Slices
from jax_ssp.surroundings import more_cpu_devices
from jax_ssp.where import checked_axes, checked_devices

MOST_THREADS = 4096  # workers of a process, or of a device


@dataclass(frozen=True)
class Devices(Runtime):
    """Workers on real devices.

    Each computes in a thread of its own, under the settings of the thread that calls `train`: what
    a context manager has set there (`jax.enable_x64`, `jax.default_matmul_precision`, a mesh) holds
    for all of them.

    Args:
        devices: any list of JAX devices of this process, one worker each; naming one twice puts two
            workers on it. By default all of `jax.local_devices()`.
        num_workers: how many; by default `workers_per_device` on every device. Slices that leave
            devices over need it.
        workers_per_device: how many workers share a device.
        devices_per_worker: more than one makes a worker a *slice*, a mesh of so many devices inside
            which its parameters, its state and its batches are sharded, so that a replica need not
            fit on one device. The devices are taken in their order. Instead, `devices` may be a
            list of meshes, one a worker, of the same axes. Each worker computes under its own, as
            with `jax.set_mesh`; one that is set around `train` must have the same axes, and is left
            for the time of the run.
        axes: of a slice: sizes by name, whose product is `devices_per_worker`; by default one axis,
            "model". In words: fsdp 2 model 4.
        shardings: how parameters lie on a slice: a `jax.P`, a tree of them like the parameters, or
            a function params -> that. By default as their `NamedSharding`s say, or the metadata of
            an nnx model; what has none is replicated in a slice. What the optimizer keeps for a
            parameter lies as that does.
        batch_spec: how a batch lies on a slice: a `jax.P` or a tree of them. By default it is split
            along its first axis over the slice's first one if that is called data, batch, fsdp, dp
            or replica, and else it is replicated.
        cpu_devices: split the host's CPU into this many devices, and use those where there are no
            other devices, or too few for the workers. JAX fixes their number when it first makes an
            array: a run asks for them before that, and says what to do where it comes too late.
        delay: a delay model to inject: a clock takes at least as long as it says (seconds).
        seed: of the injected delays.
        faults: what goes wrong (see `ssp.faults`). In words a kind, a worker and a clock, and what
            else it takes: crash:2:5 slow:1:3:seconds=0.5 kill:phase=save,nth=2
            poisson:mtbf=30,kinds=crash+late,back_after=5.
        network: pushes, merges and reads take at least as long as over it (see `ssp.Network`); what
            overlaps with computing does so here. By default they take the time that they take.
        recovery: what becomes of a worker in which something goes wrong (see `ssp.Recovery`); by
            default its error ends the run.

    Raises:
        ValueError: if a number is less than 1; `train` raises it if there are not devices enough,
            or JAX has started with fewer CPU devices than `cpu_devices`.
        TypeError: if `delay` is not callable.

    Example:
        >>> Devices(num_workers=2, workers_per_device=2).count()
        2
    """

    devices: Annotated[Sequence[Any] | None, tyro.conf.Suppress] = None
    num_workers: int | None = None
    workers_per_device: int = 1
    devices_per_worker: int = 1
    axes: Mapping[str, int] | None = field(default=None, hash=False)
    shardings: Annotated[Any, tyro.conf.Suppress] = field(default=None, hash=False)
    batch_spec: Annotated[Any, tyro.conf.Suppress] = field(default=None, hash=False)
    cpu_devices: int | None = None
    delay: DelayModel = None
    seed: int = 0
    faults: Faults = ()
    recovery: Recovery | None = None
    network: Network | None = None

    def __post_init__(self) -> None:
        for name in ("num_workers", "workers_per_device", "devices_per_worker", "cpu_devices"):
            if getattr(self, name) is not None or "_per_" in name:
                put(self, name, integer, least=1, most=MOST_THREADS)
        put(self, "seed", seed)
        put(self, "faults", check_faults)
        must = "None or `ssp.Recovery(...)`"
        put(self, "recovery", optional, instance, Recovery, must)
        put(self, "network", optional, instance, Network, NETWORK)
        if self.delay is not None:
            put(self, "delay", function, CALL)
        if self.devices is not None:
            object.__setattr__(self, "devices", checked_devices(self.devices))
        if self.axes is not None:
            put(self, "axes", checked_axes)
        self._check_slices()

    def _check_slices(self) -> None:
        check_slices("Devices", self)
        if self.slice_axes is not None and self.workers_per_device > 1:
            raise ValueError(
                f"`Devices(workers_per_device={self.workers_per_device})` and workers on slices "
                "cannot both be had: programs of two workers, each on several devices, could wait "
                "for each other. Give each worker devices of its own."
            )

    @property
    def _meshes(self) -> list[Mesh]:
        return [each for each in self.devices or () if isinstance(each, Mesh)]

    @property
    def slice_axes(self) -> Mapping[str, int] | None:
        """The axes of a worker's slice; None where each has one device."""
        if self._meshes:
            return axes_of(self._meshes[0])
        return axes_asked(self.devices_per_worker, self.axes)

    @property
    def time(self) -> str:
        return "wall"

    def donates(self, progress: bool) -> bool:
        return donates(self.recovery, progress)

    def count(self) -> int:
        count = len(self.worker_devices())
        check_delay(self.delay, count)
        check_workers("Devices", self.faults, count)
        if self.network is not None:
            self.network.check(count)
        check_enough("Devices", self.recovery, count)
        return count

    def worker_slices(self) -> Slices | None:
        axes = self.slice_axes
        if axes is None:
            return None
        meshes = self._meshes or meshes_on(self._devices(), axes)
        if not self._meshes and meshes and self.num_workers is None:
            self._check_all_have_workers(len(meshes), math.prod(axes.values()))
        if (count := self.num_workers or len(meshes)) > len(meshes) or not meshes:
            raise ValueError(
                f"`Devices(num_workers={self.num_workers}, devices_per_worker="
                f"{math.prod(axes.values())})` needs {count or 1} slices, but there are "
                f"{len(self._devices())} devices or meshes, which make {len(meshes)}. Ask for "
                "fewer workers or smaller slices, or split the CPU with `cpu_devices`."
            )
        return Slices(meshes[:count], self.shardings, self.batch_spec)

    def _check_all_have_workers(self, count: int, size: int) -> None:
        left = len(self._devices()) - count * size
        if left:
            raise ValueError(
                f"`Devices(devices_per_worker={size})` leaves {left} of {len(self._devices())} "
                f"devices without a worker; if they are to have none, say `num_workers={count}`, "
                "else make slices of a size that divides their number."
            )

    def worker_devices(self) -> list[jax.Device]:
        slices = self.worker_slices()
        if slices is not None:
            return [mesh.devices.flat[0] for mesh in slices.meshes]
        devices = self._devices()
        room = [device for device in devices for _ in range(self.workers_per_device)]
        count = len(room) if self.num_workers is None else self.num_workers
        if count > len(room):
            raise ValueError(
                f"`Devices(num_workers={count})` needs {count} places, but there are "
                f"{len(devices)} devices with {self.workers_per_device} each. Ask for fewer "
                "workers, set `workers_per_device`, or split the CPU with `cpu_devices`."
            )
        return room[:count]

    def _devices(self) -> list[jax.Device]:
        if self.devices is not None:
            return list(self.devices)
        if self.cpu_devices is None:
            return jax.local_devices()
        if jax.config.jax_num_cpu_devices < self.cpu_devices:  # pyright: ignore
            with contextlib.suppress(RuntimeError):  # JAX has started: what there is may do
                jax.config.update("jax_num_cpu_devices", self.cpu_devices)
        devices = jax.local_devices()
        needed = self.cpu_devices * self.workers_per_device
        if self.num_workers is not None:
            needed = self.num_workers * self.devices_per_worker
        enough = len(devices) * self.workers_per_device >= needed
        if enough and Placement.of(devices[0]).backend != "cpu":
            return devices
        return _cpu_devices(self.cpu_devices)

    def open(self, session: Parties) -> World:
        num_workers = session.num_workers
        for worker in session.workers if self.recovery is not None else ():
            worker.feed.check_goes_back()
        fates = fates_of(self.faults, session.most)
        if self.network is None or self.network.is_free:
            clock = WallClock(num_workers, fates)
        else:
            clock = PacedClock(num_workers, Traffic.of(self.network, session), fates)
        delays = None if self.delay is None else DelayDraws(self.delay, self.seed, session.most)
        running = Running(session, clock, delays, fates)
        return World(clock, Threads(session.workers, running, clock, self.recovery), fates)


def _cpu_devices(number: int) -> list[jax.Device]:
    """The first CPU devices; ValueError if there are fewer, saying what to do."""
    try:
        there = jax.local_devices(backend="cpu")
    except RuntimeError:
        raise ValueError(
            f"`Devices(cpu_devices={number})` needs the CPU backend, which JAX was told to leave "
            'out; add it to JAX_PLATFORMS (for example "cuda,cpu").'
        ) from None
    if len(there) < number:
        raise ValueError(
            f"`Devices(cpu_devices={number})` comes too late: JAX has started with "
            f"{len(there)} CPU devices, and their number is fixed then. {more_cpu_devices(number)} "
            "Or train on what there is: `Devices(workers_per_device=...)` puts several workers on "
            f"a device, `Virtual(num_workers={number})` rehearses them in virtual time."
        )
    return there[:number]
