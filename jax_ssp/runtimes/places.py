"""Which devices a run may use: those of this process, one for each worker."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jax_ssp.checks import instance, several


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
    if not isinstance(devices, slices):
        must = "a list of JAX devices, such as `jax.devices()[:2]`"
        devices = several(field, devices, must)
        if not devices:
            raise ValueError(f"`{field}` must name at least one device, got none.")
    else:
        devices = (devices,)
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
