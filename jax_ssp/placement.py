"""Where arrays live: a device of this process or a slice of them, and what it costs to bring
something there.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import jax
import numpy as np

from jax_ssp.checks import choice
from jax_ssp.slices import Slice
from jax_ssp.surroundings import more_cpu_devices
from jax_ssp.where import check_is_here

Place: TypeAlias = jax.Device | Slice
"""Where a worker computes."""

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
    """A device or a slice, and how to bring trees of arrays to it. Made by `of`, `named`, `host`.

    Attributes:
        device: the device; of a slice, the first one.
        on_host: whether its memory is the host's.
        pins: whether it can copy into pinned memory of the host.
        slice: what it is, if it is one. What is sent from there or received is on one device of it.

    Example:
        >>> place = Placement.named("cpu", 0, "`placement` names")
        >>> place.name, place == Placement.of(jax.devices("cpu")[0])
        (('cpu', 0), True)
    """

    device: jax.Device
    on_host: bool
    pins: bool
    slice: Slice | None = None

    @classmethod
    def of(cls, device: Place) -> Placement:
        """The placement of a device or a slice."""
        return _placement(device, _separate)

    @classmethod
    def holding(cls, tree: Any) -> Placement | None:
        """Where what a program made is, all on one device; None where NumPy or nothing has it."""
        first = next(iter(jax.tree.leaves(tree)), None)  # the others are where it is
        return cls.of(*first.devices()) if isinstance(first, jax.Array) else None

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
        same = self.device == other.device and self.slice == other.slice
        return same or (self.on_host and other.on_host)

    @property
    def text(self) -> str:
        """What it is called where people read it."""
        return " ".join(map(str, self.devices))

    @property
    def place(self) -> Place:
        """The device, or the slice."""
        return self.device if self.slice is None else self.slice

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """All of them."""
        return (self.device,) if self.slice is None else self.slice.devices

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """For programs that are dispatched here: under the mesh of a slice, and no others there."""
        return contextlib.nullcontext() if self.slice is None else self.slice.entered()

    @cached_property
    def reuses(self) -> bool:
        """Whether the memory of old arrays is worth keeping."""
        return self.on_host and self.slice is None

    @property
    def awaits(self) -> bool:
        """Whether programs must be waited for one by one.

        Those of a slice of the CPU's devices meet in collectives, each device in a thread of its
        own: a second program could hold the threads that the first one waits for.
        """
        return self.slice is not None and self.backend == "cpu"

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Dispatch a jitted function here; on a slice, under its mesh."""
        if self.slice is None:
            return function(*arguments)
        with self.slice.entered():
            results = function(*arguments)
            return jax.block_until_ready(results) if self.awaits else results

    def spare(self, busy: Sequence[jax.Device]) -> Placement:
        """Another device like it that is not busy; itself if there is none, or on the host.

        Devices on the host are names for the same cores, so none of them is freer than another.
        """
        if self.on_host:
            return self
        others = [each for each in jax.local_devices(backend=self.backend) if each not in busy]
        if self.slice is None:
            return Placement.of(others[0]) if others else self
        return Placement.of(self.slice.on(others)) if len(others) >= self.slice.size else self

    # Arrays.

    def put(self, tree: Any, *, may_alias: bool | None = None) -> Any:
        """A tree on the device, or on its way there; the arrays themselves if they are there.

        Args:
            tree: of arrays.
            may_alias: False copies what is there already, so that it may be donated.
        """
        if self.slice is not None:
            return self.slice.put(tree, may_alias)
        return jax.device_put(tree, self.device, may_alias=may_alias)

    def wait(self, tree: Any) -> None:
        """Wait until a tree that one program made here, and `send` gave, is there."""
        if self.reuses:
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
        source = Placement.holding(tree) if self.on_host else None
        if source is not None:
            if source.device == self.device:
                return tree
            pinned = jax.tree.leaves(tree)[0].sharding.memory_kind == PINNED
            if source.on_host or pinned:
                source.wait(tree)  # other threads can go on while this one waits, but not below
                return jax.tree.map(np.asarray, tree)
        return jax.device_put(tree, self.device)

    def fetch(self, tree: Any) -> None:
        """Start to copy numbers that a program makes here to where Python can read them."""
        for leaf in [] if self.on_host else jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array):  # NumPy's are there
                leaf.copy_to_host_async()


@lru_cache(maxsize=1024)
def _placement(device: Place, separate: bool) -> Placement:
    if isinstance(device, Slice):
        each = [_placement(device.devices[position], separate) for position in device.here]
        on_host, pins = (all(getattr(p, name) for p in each) for name in ("on_host", "pins"))
        return Placement(device.device, on_host, pins, device)
    on_host = device.platform == "cpu"
    if separate:
        on_host = on_host and device == jax.local_devices(backend="cpu")[-1]
    pins = any(memory.kind == PINNED for memory in device.addressable_memories())
    return Placement(device, on_host, pins)
