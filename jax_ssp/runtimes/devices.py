"""Real devices: one host thread a worker, dispatch independent of the others."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import tyro

from jax_ssp.checks import function, integer, put, seed
from jax_ssp.delays import CALL, DelayModel, check_delay
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.placement import checked_devices
from jax_ssp.runtimes.base import Parties, Runtime, World
from jax_ssp.runtimes.faults import Fault, check_faults, check_workers, fates
from jax_ssp.runtimes.threads import Threads
from jax_ssp.runtimes.wall import WallClock

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
        num_workers: how many; by default `workers_per_device` on every device.
        workers_per_device: how many workers share a device.
        cpu_devices: split the host's CPU into this many devices, and use those where there are
            fewer devices otherwise. Works only before JAX has touched a device.
        delay: a delay model to inject: a clock takes at least as long as it says (seconds).
        seed: of the injected delays.
        faults: what goes wrong (see `ssp.faults`).

    Raises:
        ValueError: if a number is less than 1; `train` raises it if there are not devices enough.
        TypeError: if `delay` is not callable.
    """

    devices: Annotated[Sequence[Any] | None, tyro.conf.Suppress] = None
    num_workers: int | None = None
    workers_per_device: int = 1
    cpu_devices: int | None = None
    delay: DelayModel = None
    seed: int = 0
    faults: Annotated[Sequence[Fault], tyro.conf.Suppress] = ()

    def __post_init__(self) -> None:
        for name in ("num_workers", "workers_per_device", "cpu_devices"):
            if getattr(self, name) is not None or name == "workers_per_device":
                put(self, name, integer, least=1, most=MOST_THREADS)
        put(self, "seed", seed)
        put(self, "faults", check_faults)
        if self.delay is not None:
            put(self, "delay", function, CALL)
        if self.devices is not None:
            object.__setattr__(self, "devices", checked_devices(self.devices))

    @property
    def time(self) -> str:
        return "wall"

    def count(self) -> int:
        count = len(self.worker_devices())
        check_delay(self.delay, count)
        check_workers("Devices", self.faults, count)
        return count

    def worker_devices(self) -> list[jax.Device]:
        devices = self._devices()
        room = [device for device in devices for _ in range(self.workers_per_device)]
        count = len(room) if self.num_workers is None else self.num_workers
        if count > len(room):
            raise ValueError(
                f"`Devices(num_workers={count})` needs {count} places, but there are "
                f"{len(devices)} devices with {self.workers_per_device} each. Ask for fewer "
                "workers, set `workers_per_device`, or (before JAX starts) `cpu_devices`."
            )
        return room[:count]

    def _devices(self) -> list[jax.Device]:
        if self.devices is not None:
            return list(self.devices)
        if self.cpu_devices is not None:
            # Once JAX has started, what there is must do, and `worker_devices` says if it does not.
            with contextlib.suppress(RuntimeError):
                jax.config.update("jax_num_cpu_devices", self.cpu_devices)
        devices = jax.local_devices()
        if self.cpu_devices is not None:
            room = len(devices) * self.workers_per_device
            if room < (self.num_workers or self.cpu_devices * self.workers_per_device):
                devices = jax.local_devices(backend="cpu")
        return devices

    def open(self, session: Parties) -> World:
        num_workers, store = session.num_workers, session.store
        assert store is not None  # since something is computed
        clock = WallClock(num_workers)
        delays = None if self.delay is None else DelayDraws(self.delay, self.seed, num_workers)
        return World(clock, Threads(session.workers, store, clock, delays, fates(self.faults)))
