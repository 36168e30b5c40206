"""Where a user says that something is to be: devices, their names, and meshes of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, Sharding

from jax_ssp.checks import instance, integer, several, shown, text

Where: TypeAlias = str | jax.Device | None
"""How a user says where: "host", "devices", a device such as "gpu:7", or a `jax.Device`."""


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


_around: ContextVar[Any] = ContextVar("around", default=None)


@contextlib.contextmanager
def leaving_mesh() -> Iterator[None]:
    """Leave the mesh of several devices that `jax.set_mesh` has set, and know which it was.

    What a server and its pieces compute is on devices of their own, and workers have other meshes.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        yield
        return
    before = _around.set(mesh)
    try:
        with jax.set_mesh(Mesh(np.empty((), object), ())):
            yield
    finally:
        _around.reset(before)


def check_no_mesh() -> None:
    """Raise ValueError under a mesh of several devices, where workers compute on one each."""
    mesh = _around.get()
    if mesh is not None:
        axes = dict(mesh.shape)
        raise ValueError(
            f"`jax.set_mesh` has set a mesh of {mesh.size} devices, but a worker computes on one "
            f"device. For workers on slices of it say `Devices(devices_per_worker={mesh.size}, "
            f"axes={axes})`, or call `train` outside of it."
        )


def check_mesh(axes: dict[str, int]) -> Any:
    """The mesh that `jax.set_mesh` has set, None if there is none; it must have a slice's axes.

    Raises:
        ValueError: if it has others.
    """
    mesh = _around.get()
    if mesh is not None and dict(mesh.shape) != axes:
        raise ValueError(
            f"`jax.set_mesh` has set a mesh with the axes {dict(mesh.shape)}, but a worker's slice "
            f"has {axes}. Each worker enters a mesh of its own, so set one with the same axes, or "
            "call `train` outside of it."
        )
    return mesh


def check_is_here(name: str, device: jax.Device) -> None:
    """Raise ValueError if a device, named so, belongs to another process."""
    if device.process_index != jax.process_index():
        raise ValueError(
            f"`{name}` is {device}, which belongs to process {device.process_index}; only devices "
            "of this process can be used: `jax.local_devices()`."
        )


def checked_devices(devices: Any) -> tuple[Any, ...]:
    """What `Devices(devices=...)` may be: devices of this process, or meshes, one a worker."""
    field = "Devices(devices=...)"
    must = "a list of JAX devices, such as `jax.devices()[:2]`, or of `jax.sharding.Mesh`es"
    devices = several(field, _listed(devices, field), must)
    if not devices:
        raise ValueError(f"`{field}` must name at least one device, got none.")
    if any(isinstance(each, Mesh) for each in devices):
        return _checked_meshes(devices, field)
    for number, device in enumerate(devices):
        where = f"{field}[{number}]"
        if isinstance(device, (AbstractMesh, Sharding, list, tuple, np.ndarray)):
            raise TypeError(
                f"`{where}` is a {type(device).__name__}; give a flat list of devices, such as "
                "`jax.devices()`, one worker each, a list of `jax.sharding.Mesh`es, or "
                "`devices_per_worker`."
            )
        instance(where, device, jax.Device, "a JAX device, such as `jax.devices()[0]`")
        check_is_here(where, device)
    return tuple(devices)


def checked_axes(field: str, axes: Any) -> dict[str, int]:
    """The axes of a slice: sizes by name."""
    must = 'sizes by name, such as {"fsdp": 2}'
    axes = instance(field, axes, Mapping, must)
    if not axes:
        raise ValueError(f"`{field}` must name at least one axis, got none.")
    if not all(isinstance(name, str) for name in axes):
        raise TypeError(f"`{field}` must be {must}, got {shown(axes)}.")
    names = [text(f"{field} name", name) for name in axes]
    return {name: integer(f"{field}[{name!r}]", axes[name], least=1) for name in names}


def _listed(devices: Any, field: str) -> Any:
    """A list of what was given, where that is one thing by itself."""
    if isinstance(devices, (Mesh, AbstractMesh, Sharding)):
        raise TypeError(
            f"`{field}` is one {type(devices).__name__}; give a list of meshes, one for each "
            "worker, or its devices, `[*mesh.devices.flat]`, one worker each."
        )
    return devices


def _checked_meshes(meshes: Any, field: str) -> tuple[Mesh, ...]:
    """Meshes of the same axes, of devices that are in one of them only."""
    seen: dict[jax.Device, int] = {}
    for number, mesh in enumerate(meshes):
        where = f"{field}[{number}]"
        instance(where, mesh, Mesh, "a `jax.sharding.Mesh`, as another of them is")
        first = meshes[0]
        if (dict(mesh.shape), mesh.axis_types) != (dict(first.shape), first.axis_types):
            raise ValueError(
                f"`{where}` has the axes {dict(mesh.shape)} of types {mesh.axis_types}, but "
                f"`{field}[0]` has {dict(first.shape)} of types {first.axis_types}; all workers "
                "need the same."
            )
        for device in mesh.devices.flat:
            check_is_here(where, device)
            if seen.setdefault(device, number) != number:
                raise ValueError(
                    f"`{where}` and `{field}[{seen[device]}]` both hold {device}; a device belongs "
                    "to one slice, since programs of two could each wait for the other in it."
                )
    return tuple(meshes)
