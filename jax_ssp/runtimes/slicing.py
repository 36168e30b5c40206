"""Where the workers of a run are: on devices, or on slices on which their arrays are sharded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from jax_ssp.placement import Place, Placement
from jax_ssp.server.positions import SliceParts
from jax_ssp.shardings import (
    REPLICATED,
    ByLeaf,
    axes_of,
    param_specs,
    spec_in_json,
    spec_of_json,
)
from jax_ssp.slices import OF_DATA, Slice, Slices, mesh_of
from jax_ssp.where import Where, check_mesh, check_no_mesh

if TYPE_CHECKING:
    from jax_ssp.runtimes.runtime import Runtime
    from jax_ssp.runtimes.task import Task


class Sliced(Protocol):
    """Of a runtime, what says whether its workers are slices; see `Devices`."""

    @property
    def devices_per_worker(self) -> int: ...
    @property
    def axes(self) -> Mapping[str, int] | None: ...
    @property
    def slice_axes(self) -> Mapping[str, int] | None:
        """The axes of a worker's slice; None where each has one device."""
        ...


def axes_asked(size: int, axes: Mapping[str, int] | None) -> Mapping[str, int] | None:
    """The axes of slices of so many devices; None where they are no slices."""
    return axes if axes is not None or size == 1 else {"model": size}


def check_slices(name: str, runtime: Sliced) -> None:
    """Raise ValueError if what a runtime of that name says of its slices does not fit."""
    axes, size = runtime.slice_axes, runtime.devices_per_worker
    if axes is None:
        for field in ("shardings", "batch_spec"):
            if getattr(runtime, field) is not None:
                raise ValueError(
                    f"`{name}({field}=...)` says how arrays lie on a slice, but each worker has "
                    "one device; ask for slices by `devices_per_worker` or `axes`."
                )
        return
    whole = math.prod(axes.values())
    if size not in (1, whole) or runtime.axes not in (None, axes):
        raise ValueError(
            f"`{name}(devices_per_worker={size}, axes={runtime.axes})` does not fit: a slice with "
            f"the axes {dict(axes)} has {whole} devices. Give one of them, or make them agree."
        )


def worker_places(runtime: Runtime, task: Task) -> Sequence[Place]:
    """The device or the slice of each worker.

    Args:
        runtime: says which devices.
        task: with its parameters, which may say how they are sharded; so may the runtime, the task
            itself, and its step, by a method `shardings(params)`.

    Raises:
        ValueError: if the parameters cannot be sharded so, or `jax.set_mesh` has set another mesh.
    """
    sliced = runtime.worker_slices()
    if sliced is None:
        check_no_mesh()
        return runtime.worker_devices()
    if sliced.specs is not None:
        return [Slice(mesh, sliced.specs, sliced.batch) for mesh in sliced.meshes]
    first, types = sliced.meshes[0], None
    around = check_mesh(axes_of(first))
    if around is not None:
        types = around.axis_types
    meshes = [_of_types(mesh, types) for mesh in sliced.meshes]
    given = sliced.shardings
    if given is None and not _any_sharded(task.params):
        own = getattr(task.step, "shardings", None)
        given = own if task.shardings is None else task.shardings
    with jax.sharding.use_abstract_mesh(meshes[0].abstract_mesh):  # for a function to look at
        specs = param_specs(task.params, given, meshes[0])
    batch = sliced.batch
    if batch is None:
        name = first.axis_names[0]
        batch = jax.P(name) if name in OF_DATA else REPLICATED
    return [Slice(mesh, specs, batch) for mesh in meshes]


def meshes_on(devices: Sequence[jax.Device], axes: Mapping[str, int]) -> list[Mesh]:
    """As many slices with these axes as the devices are enough for, in their order."""
    size = math.prod(axes.values())
    types = [AxisType.Auto] * len(axes)
    return [
        mesh_of(devices[first : first + size], axes, types)
        for first in range(0, len(devices) - size + 1, size)
    ]


def mesh_elsewhere(axes: Mapping[str, int]) -> AbstractMesh:
    """A slice with these axes, whose devices are in another process."""
    types = (AxisType.Auto,) * len(axes)
    return AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=types)


def _any_sharded(params: Any) -> bool:
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]
    return any(isinstance(each, jax.sharding.NamedSharding) for each in shardings)


def _of_types(mesh: Mesh | AbstractMesh, types: Sequence[AxisType] | None) -> Mesh | AbstractMesh:
    if types is None or mesh.axis_types == tuple(types):
        return mesh
    if isinstance(mesh, AbstractMesh):
        return AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=tuple(types))
    return Mesh(mesh.devices, mesh.axis_names, axis_types=tuple(types))


def server_places(
    placement: Where, runtime: Runtime, places: Sequence[Place]
) -> list[jax.Device] | SliceParts:
    """The devices that a placement means; of workers on slices, with what is on which."""
    first = places[0]
    if isinstance(first, Slice):
        slices = [each for each in dict.fromkeys(places) if isinstance(each, Slice)]
        if placement == "devices":
            return SliceParts.on(slices)
        one = Placement.host() if placement is None else Placement.at(placement, "placement")
        shares = runtime.server_shares(first.size)
        return SliceParts(first, (one.device,) * (first.size * shares), shares)
    devices = [each for each in places if not isinstance(each, Slice)]
    if placement is None:
        return runtime.server_devices(devices)
    if placement == "devices":
        return list(dict.fromkeys(devices))
    return [Placement.at(placement, "placement").device]


def computing_places(
    placement: Where, recorded: Sequence[Place], server: Sequence[jax.Device] | SliceParts
) -> list[Place]:
    """The device, or the slice, that each worker's programs run on.

    Devices of the CPU backend are names for the same cores and the same memory, and programs given
    to one of them run beside each other all the same. So with a server on the host, workers on any
    of them compute where it is: nothing has to travel, and one compilation serves them all.
    """
    if placement not in (None, "host") or isinstance(server, SliceParts):
        return list(recorded)
    first = Placement.of(server[0])
    return [server[0] if Placement.of(each).shares_memory(first) else each for each in recorded]


# On the tape.


def told_of_slices(seats: Sequence[Any]) -> dict[str, Any]:
    """What the header of a tape says of the slices of a run, as JSON; nothing if it has none.

    Args:
        seats: of the workers: where each is, with the names of its devices.
    """
    first = seats[0].recorded if seats else None
    if not isinstance(first, Slice):
        return {}
    batch: Any = first.batch
    if not isinstance(batch, jax.P):
        batch = [each or REPLICATED for each in jax.tree.leaves(batch, is_leaf=lambda x: x is None)]
    return {
        "slices": {
            "axes": axes_of(first.mesh),
            "types": [each.name for each in first.mesh.axis_types],
            "devices": [list(each.names) for each in seats],
            "params": list(map(spec_in_json, first.params)),
            "batch": spec_in_json(batch) if isinstance(batch, jax.P) else None,
            "batch_leaves": None if isinstance(batch, jax.P) else list(map(spec_in_json, batch)),
        }
    }


def slices_told(told: Mapping[str, Any]) -> Slices:
    """The slices that a tape tells of; ValueError if one of their devices is not here."""
    types = [AxisType[name] for name in told["types"]]
    who = "the tape was recorded on slices, with"
    meshes = [
        mesh_of([Placement.named(*one, who).device for one in devices], told["axes"], types)
        for devices in told["devices"]
    ]
    batch: Any = told["batch"]
    if batch is None:
        batch = ByLeaf(map(spec_of_json, told["batch_leaves"]))
    else:
        batch = spec_of_json(batch)
    return Slices(meshes, batch=batch, specs=tuple(map(spec_of_json, told["params"])))
