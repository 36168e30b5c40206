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
from jax_ssp.placement import Placement, checked_devices
from jax_ssp.runtimes.base import Parties, Runtime, World
from jax_ssp.runtimes.faults import Fault, check_faults, check_workers, fates
from jax_ssp.runtimes.threads import Threads
from jax_ssp.runtimes.wall import WallClock
from jax_ssp.surroundings import more_cpu_devices

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
        cpu_devices: split the host's CPU into this many devices, and use those where there are no
            other devices, or too few for the workers. JAX fixes their number when it first makes an
            array: a run asks for them before that, and says what to do where it comes too late.
        delay: a delay model to inject: a clock takes at least as long as it says (seconds).
        seed: of the injected delays.
        faults: what goes wrong (see `ssp.faults`).

    Raises:
        ValueError: if a number is less than 1; `train` raises it if there are not devices enough,
            or JAX has started with fewer CPU devices than `cpu_devices`.
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
        needed = self.num_workers or self.cpu_devices * self.workers_per_device
        enough = len(devices) * self.workers_per_device >= needed
        if enough and Placement.of(devices[0]).backend != "cpu":
            return devices
        return _cpu_devices(self.cpu_devices)

    def open(self, session: Parties) -> World:
        num_workers, store = session.num_workers, session.store
        assert store is not None  # since something is computed
        clock = WallClock(num_workers)
        delays = None if self.delay is None else DelayDraws(self.delay, self.seed, num_workers)
        return World(clock, Threads(session.workers, store, clock, delays, fates(self.faults)))


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
