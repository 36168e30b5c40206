"""Where arrays live: one device of this process, and what it costs to bring something there.

The rest of the house asks a `Placement`, and never which platform a device is of:

    has its own memory   what travels to or from it is copied. Copies out of it are started as soon
                         as a program is dispatched, into pinned host memory where the backend has
                         it, and its allocator keeps a pool, so that nothing has to be reused here.
    is on the host       it is the host's memory: nothing is copied, programs read NumPy arrays as
                         they are, what one program makes is ready at one time, and the memory of
                         old arrays is worth keeping.

A test mode, `separate_memory()` or JAX_SSP_SEPARATE_MEMORY=1, treats every CPU device but the last
one, which stands for the host, as if it had memory of its own. All that an accelerator needs then
runs without one.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import jax
import numpy as np

from jax_ssp.checks import choice, instance, several, shown
from jax_ssp.surroundings import more_cpu_devices

Where: TypeAlias = str | jax.Device | None
"""How a user says where: "host", "devices", a device such as "gpu:7", or a `jax.Device`."""

PINNED = "pinned_host"
SWITCH = "JAX_SSP_SEPARATE_MEMORY"

_separate = choice(SWITCH, os.environ.get(SWITCH, "0"), ("0", "1")) == "1"


@contextlib.contextmanager
def separate_memory() -> Iterator[None]:
    """Treat CPU devices as if each had memory of its own, in all threads; a whole run goes inside.

    Example:
        >>> with separate_memory():
        ...     first, host = Placement.of(jax.devices("cpu")[0]), Placement.host()
        >>> host.on_host, first.shares_memory(host) or len(jax.devices("cpu")) == 1
        (True, False)
    """
    global _separate
    before, _separate = _separate, True
    try:
        yield
    finally:
        _separate = before


@dataclass(frozen=True)
class Placement:
    """One device, and how to bring trees of arrays to it. Made by `of`, `named` and `host`.

    Attributes:
        device: the device.
        on_host: whether its memory is the host's.
        pins: whether it can copy into pinned memory of the host.

    Example:
        >>> place = Placement.named("cpu", 0, "`placement` names")
        >>> place.name, place == Placement.of(jax.devices("cpu")[0])
        (('cpu', 0), True)
    """

    device: jax.Device
    on_host: bool
    pins: bool

    @classmethod
    def of(cls, device: jax.Device) -> Placement:
        """The placement of a device."""
        return _placement(device, _separate)

    @classmethod
    def named(cls, backend: str, index: int, who: str) -> Placement:
        """The placement of a device of that name; `who` said so, for the message.

        Raises:
            ValueError: if there is none here.
        """
        try:
            devices = jax.local_devices(backend=backend)
        except RuntimeError:
            devices = []
        if index >= len(devices):
            remedy = f" {more_cpu_devices(index + 1)}" if backend == "cpu" else ""
            raise ValueError(
                f"{who} {backend} device {index}, but there are {len(devices)} {backend} devices "
                f"here. Use a machine that has it.{remedy}"
            )
        return cls.of(devices[index])

    @classmethod
    def host(cls) -> Placement:
        """The first CPU device; in the test mode the last one.

        Raises:
            RuntimeError: if JAX was told to leave the CPU backend out.
        """
        try:
            return cls.of(jax.local_devices(backend="cpu")[-1 if _separate else 0])
        except RuntimeError as error:
            raise RuntimeError(
                "the server merges on the CPU backend, which is not there; "
                'add it to JAX_PLATFORMS (for example "cuda,cpu").'
            ) from error

    @classmethod
    def at(cls, where: str | jax.Device, field: str) -> Placement:
        """What a user means by "host", a device's name or a device; see `check_where`.

        Raises:
            ValueError: if there is no such device here.
        """
        if isinstance(where, jax.Device):
            check_is_here(field, where)
            return cls.of(where)
        if where == "host":
            return cls.host()
        backend, _, index = where.partition(":")
        return cls.named(backend, int(index), f"`{field}` names")

    @property
    def backend(self) -> str:
        """The name of its backend: "cpu", "gpu" or "tpu"."""
        return self.device.platform

    @property
    def name(self) -> tuple[str, int]:
        """The device as a tape names it: its backend, and its number among that one's here."""
        return self.backend, jax.local_devices(backend=self.backend).index(self.device)

    def shares_memory(self, other: Placement) -> bool:
        """Whether what lives on one can be read on the other as it is."""
        return self.device == other.device or (self.on_host and other.on_host)

    def spare(self, busy: Sequence[jax.Device]) -> Placement:
        """Another device like it that is not busy; itself if there is none, or on the host.

        Devices on the host are names for the same cores, so none of them is freer than another.
        """
        if self.on_host:
            return self
        others = [each for each in jax.local_devices(backend=self.backend) if each not in busy]
        return Placement.of(others[0]) if others else self

    # Arrays.

    def put(self, tree: Any, *, may_alias: bool | None = None) -> Any:
        """A tree on the device, or on its way there; the arrays themselves if they are there.

        Args:
            tree: of arrays.
            may_alias: False copies what is there already, so that it may be donated.
        """
        return jax.device_put(tree, self.device, may_alias=may_alias)

    def wait(self, tree: Any) -> None:
        """Wait until a tree that one program made here, and `send` gave, is there."""
        if self.on_host:
            jax.tree.leaves(tree)[0].block_until_ready()
        else:
            jax.block_until_ready(tree)

    def send(self, tree: Any, to: Placement) -> Any:
        """Start to bring what a program makes here to where it will be received.

        On the host there is nothing to start. To the host an accelerator copies into pinned memory,
        which it writes by itself: neither a thread nor a buffer in between is needed.
        """
        if self.on_host:
            return tree
        if to.on_host and self.pins:
            pinned = jax.sharding.SingleDeviceSharding(self.device, memory_kind=PINNED)
            return jax.device_put(tree, pinned)
        return jax.device_put(tree, to.device)

    def receive(self, tree: Any) -> Any:
        """Bring what a program made here, sent or not, from where it is.

        Between devices on the host it is not copied, as `jax.device_put` would, but given as NumPy
        arrays on the same memory, once it is computed: any program on any CPU device reads those as
        they are. While they live XLA does not use that memory again. The same goes for what is in
        pinned memory. Else the copy is started here.
        """
        first = next(iter(jax.tree.leaves(tree)), None)  # the others are where it is
        if self.on_host and isinstance(first, jax.Array):
            (device,) = first.devices()
            if device == self.device:
                return tree
            source = Placement.of(device)
            if source.on_host or first.sharding.memory_kind == PINNED:
                source.wait(tree)  # other threads can go on while this one waits, but not below
                return jax.tree.map(np.asarray, tree)
        return jax.device_put(tree, self.device)

    def fetch(self, tree: Any) -> None:
        """Start to copy numbers that a program makes here to where Python can read them."""
        for leaf in [] if self.on_host else jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array):  # NumPy's are there
                leaf.copy_to_host_async()


@lru_cache(maxsize=1024)
def _placement(device: jax.Device, separate: bool) -> Placement:
    on_host = device.platform == "cpu"
    if separate:
        on_host = on_host and device == jax.local_devices(backend="cpu")[-1]
    pins = any(memory.kind == PINNED for memory in device.addressable_memories())
    return Placement(device, on_host, pins)


# What a user may say.


def check_where(where: Any, field: str, must: str, *words: str) -> Where:
    """What names a device, if it reads like one; whether there is such a device is not asked.

    Args:
        where: None, a device, its name, or one of the words.
        field, must: what the message calls it, and what it has to be.
        words: such as "host".
    """
    if where is None or isinstance(where, jax.Device):
        return where
    pattern = "|".join([*words, "[a-z]+:[0-9]{1,6}"])
    if not (isinstance(where, str) and re.fullmatch(pattern, where)):
        kind = ValueError if isinstance(where, str) else TypeError
        raise kind(f"`{field}` must be {must}, got {shown(where)}.")
    return str(where)


def check_placement(where: Any, field: str = "placement") -> Where:
    """Where the server may live; see `check_where`."""
    must = (
        '"host", "devices" (the parameters split over those of the workers), or one device, such '
        'as "gpu:7" or a `jax.Device`'
    )
    return check_where(where, field, must, "host", "devices")


def check_one_process() -> None:
    """Raise RuntimeError where JAX spans several processes, each of which would train alone."""
    if jax.process_count() > 1:
        raise RuntimeError(
            f"JAX spans {jax.process_count()} processes here (`jax.distributed`), and each of them "
            "would train a model of its own. Run one process, without "
            "`jax.distributed.initialize()`: it trains on all devices of its machine."
        )


def check_no_mesh() -> None:
    """Raise ValueError under a mesh of several devices, on which no worker could compute."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        raise ValueError(
            f"`jax.set_mesh` has set a mesh of {mesh.size} devices, but a worker computes on one "
            "device: workers on slices of a mesh are not there yet. Call `train` outside of it."
        )


def check_is_here(name: str, device: jax.Device) -> None:
    """Raise ValueError if a device, named so, belongs to another process."""
    if device.process_index != jax.process_index():
        raise ValueError(
            f"`{name}` is {device}, which belongs to process {device.process_index}; only devices "
            "of this process can be used: `jax.local_devices()`."
        )


def checked_devices(devices: Any) -> tuple[jax.Device, ...]:
    """What `Devices(devices=...)` may be: devices of this process, one for each worker."""
    field = "Devices(devices=...)"
    slices = (jax.sharding.Mesh, jax.sharding.AbstractMesh, jax.sharding.Sharding)
    must = "a list of JAX devices, such as `jax.devices()[:2]`"
    devices = (devices,) if isinstance(devices, slices) else several(field, devices, must)
    if not devices:
        raise ValueError(f"`{field}` must name at least one device, got none.")
    for number, device in enumerate(devices):
        where = f"{field}[{number}]"
        if isinstance(device, (*slices, list, tuple, np.ndarray)):
            raise TypeError(
                f"`{where}` is a {type(device).__name__}, but a worker computes on one device: "
                "workers on slices of a mesh are not there yet. Give a flat list, such as "
                "`jax.devices()`, one worker each."
            )
        instance(where, device, jax.Device, "a JAX device, such as `jax.devices()[0]`")
        check_is_here(where, device)
    return devices
