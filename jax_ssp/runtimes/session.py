"""What computes in a run: the workers and the server, made and checked before anything starts."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jax_ssp.checks import function
from jax_ssp.compression import Compressor
from jax_ssp.controller.weight import Weight
from jax_ssp.data.shards import Feed, kind_of
from jax_ssp.placement import Placement, Where, check_no_mesh, check_one_process
from jax_ssp.policies import SSP, LocalSteps, Policy, as_schedule
from jax_ssp.runtimes.base import Runtime
from jax_ssp.server.server import Server
from jax_ssp.server.wire import Memory
from jax_ssp.worker.adopt import Adopt
from jax_ssp.worker.check import check_step
from jax_ssp.worker.clock import averaged_leaves
from jax_ssp.worker.exchange import Exchange
from jax_ssp.worker.needs import Needs
from jax_ssp.worker.program import program_of
from jax_ssp.worker.step import Params, Step
from jax_ssp.worker.warmup import first_replica
from jax_ssp.worker.worker import Seat, Worker


class States(NamedTuple):
    """What the optimizers of a run have come to, from which parameters to evaluate may follow.

    A version comes of all workers, so what follows from one's own state is taken of their mean. Of
    a run that failed within a program, what that program had taken over is None.

    Attributes:
        workers: of each worker its own state, as the step's `init` gives it: the optimizer's; of
            an nnx model, an `NnxState` with it.
        server: of `server_tx`; where the parameters are split over devices, a tuple, one each.
        deltas: of `delta_tx`, likewise.

    Example:
        >>> import jax.numpy as jnp, jax_ssp as ssp
        >>> result = ssp.train(
        ...     ssp.make_step(
        ...         lambda params, batch, key: ((params["w"] - batch) ** 2, {}),
        ...         optax.contrib.schedule_free_sgd(0.2),
        ...     ),
        ...     params={"w": jnp.float32(0)},
        ...     data=lambda worker: iter([np.float32(1)] * 99),
        ...     runtime=ssp.Virtual(num_workers=2),
        ...     num_clocks=99,
        ... )
        >>> mean = jax.tree.map(lambda *each: sum(each) / len(each), *result.states.workers)
        >>> averaged = optax.contrib.schedule_free_eval_params(mean, result.params)
        >>> round(float(averaged["w"]), 2)
        1.0
    """

    workers: list[Any]
    server: optax.OptState
    deltas: optax.OptState


@dataclass(frozen=True)
class Crew:
    """What computes: the workers and the server, and what identifies their computation."""

    workers: list[Worker]
    server: Server
    identity: dict[str, Any]

    def states(self) -> States:
        """What the optimizers have come to."""
        server, deltas = map(_whole, self.server.states)
        return States([_whole(worker.replica.state) for worker in self.workers], server, deltas)


def _whole(state: Any) -> Any:
    """A state, or None of one that a program took over and failed."""
    leaves = jax.tree.leaves(state)
    gone = any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)
    return None if gone else state


def make_crew(
    step: Step | None,
    params: Params | None,
    data: Callable[[int], Iterable[Any]] | None,
    runtime: Runtime,
    *,
    policy: Policy,
    local_steps: LocalSteps,
    weight: Weight = "mean",
    seed: int = 0,
    server_tx: optax.GradientTransformation | None = None,
    delta_tx: optax.GradientTransformation | None = None,
    num_clocks: int | None = None,
    overlap: int = 0,
    adopt: Adopt = "rebase",
    placement: Where = None,
    delta_wire: Compressor | None = None,
    snapshot_wire: Compressor | None = None,
) -> Crew:
    """Check step, parameters and data by their shapes, then make workers and server."""
    check_one_process()
    check_no_mesh()
    params = getattr(step, "params", None) if params is None else params
    for name, value in (("step", step), ("params", params), ("data", data)):
        if value is None:
            raise ValueError(
                f"`train({name}=...)` is missing; only `Virtual(compute=False)` goes without."
            )
    assert step is not None  # as was seen just now
    assert data is not None
    function("data", data, "(worker) -> batches")
    places = runtime.place()
    homes = _server_devices(placement, runtime, places)
    devices = _computing_devices(placement, places, homes)
    feeds = _feeds(data, devices)
    for feed in {kind_of(feed.peek()): feed for feed in reversed(feeds)}.values():
        check_step(step, params, feed.peek())
    server = Server(
        params,
        server_tx,
        delta_tx=delta_tx,
        weight=weight,
        device=homes,
        averaged=averaged_leaves(step, params),
        views=getattr(step, "views", None),
        delta_wire=delta_wire,
        snapshot_wire=snapshot_wire,
    )
    program = program_of(step, server.layout)
    if type(policy).local_steps is not Policy.local_steps or local_steps.at(0) is None:
        overlap = min(overlap, 1)  # H of the next clock is not known before it starts
    needs = Needs(policy.reads_own, policy.needs_norms, server.wants_base, policy.cancels)
    delta = jax.eval_shape(server.layout.delta_like, server.masters)
    memory = {device: Memory(delta, device) for device in devices}
    exchange = Exchange(local_steps.usual, weight, needs, num_clocks, overlap, adopt)
    key = jax.random.key(seed)
    workers = [
        Worker(
            index,
            Seat(place, device, server.devices),
            program,
            feed,
            exchange,
            server.wire,
            memory[device],
            first_replica(
                program, server.wire, server.publish(), jax.random.fold_in(key, index), device
            ),
        )
        for index, (place, device, feed) in enumerate(zip(places, devices, feeds, strict=True))
    ]
    identity = {
        "params": digest(*jax.tree.leaves(params)),
        "batches": [digest(*jax.tree.leaves(feed.peek())) for feed in feeds],
        "step": digest(workers[0].lower().as_text()),
        "server_tx": digest(server.program()),
        "jax": jax.__version__,
        "platforms": sorted({Placement.of(device).backend for device in devices}),
    }
    return Crew(workers, server, identity)


def _feeds(data: Callable[[int], Iterable[Any]], devices: Sequence[jax.Device]) -> list[Feed]:
    feeds = [Feed(data(worker), device, worker) for worker, device in enumerate(devices)]
    shards = getattr(data, "num_workers", len(devices))
    if shards != len(devices):
        raise ValueError(
            f"`train(data=...)` is split over {shards} workers, but the run has {len(devices)}; "
            "give both the same number."
        )
    owners: dict[int, int] = {}
    for worker, feed in enumerate(feeds):
        other = owners.setdefault(id(feed.iterator), worker)
        if other != worker:
            raise ValueError(
                "`data` must give each worker an iterator of its own, but workers "
                f"{other} and {worker} got the same; make it anew in each call `data(worker)`."
            )
    return feeds


def _server_devices(
    placement: Where, runtime: Runtime, devices: Sequence[jax.Device]
) -> list[jax.Device]:
    """The devices that a placement means."""
    if placement is None:
        return runtime.home(devices)
    if placement == "devices":
        return list(dict.fromkeys(devices))
    return [Placement.at(placement, "placement").device]


def _computing_devices(
    placement: Where, places: Sequence[jax.Device], homes: Sequence[jax.Device]
) -> list[jax.Device]:
    """The JAX device that each worker's programs run on.

    Devices of the CPU backend are names for the same cores and the same memory, and programs given
    to one of them run beside each other all the same. So with a server on the host, workers on any
    of them compute where it is: nothing has to travel, and one compilation serves them all.
    """
    if placement not in (None, "host"):
        return list(places)
    home = Placement.of(homes[0])
    return [homes[0] if Placement.of(place).shares_memory(home) else place for place in places]


def digest(*parts: Any) -> str:
    """A short fingerprint of arrays or text, the same in every process."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            sha.update(part.encode())
        else:
            array = np.asarray(part)
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()[:16]


def rehearse(
    step: Step | None,
    *,
    params: Params | None,
    data: Callable[[int], Iterable[Any]] | None,
    runtime: Runtime,
    **others: Any,
) -> list[dict[str, Any]]:
    """Compile one clock on each device, run it, and train nothing.

    Args:
        step, params, data, runtime: as for `train`.
        **others: the rest of what `train` takes; what does not matter here is ignored.

    Returns:
        One row a device: `device`, `workers` on it, and what `Worker.rehearse` measures.

    Raises:
        ValueError: as `train` does, or if the runtime computes nothing.
    """
    if not runtime.computes:
        raise ValueError("there is nothing to compile: the runtime runs the clockwork alone.")
    known = inspect.signature(make_crew).parameters
    needed = {name: value for name, value in others.items() if name in known}
    needed["policy"] = needed.get("policy") or SSP()
    needed["local_steps"] = as_schedule(needed.get("local_steps", 1))
    needed["policy"].check(runtime.count())
    crew = make_crew(step, params, data, runtime, **needed)
    first = {worker.device: worker for worker in reversed(crew.workers)}
    count = Counter(worker.device for worker in crew.workers)
    return [
        {"device": str(device), "workers": count[device], **worker.rehearse()}
        for device, worker in sorted(first.items(), key=lambda item: item[1].index)
    ]
