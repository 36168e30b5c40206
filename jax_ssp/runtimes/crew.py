"""What computes in a run: the workers and the server, made and checked before anything starts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from jax_ssp.data import Feed, kind_of
from jax_ssp.runtimes.base import Runtime
from jax_ssp.runtimes.worker import Worker, program_of
from jax_ssp.server import Server, Weight
from jax_ssp.steps import Params, Step, averaged_leaves, check_step


@dataclass(frozen=True)
class Crew:
    """What computes: the workers and the server, and what identifies their computation."""

    workers: list[Worker]
    server: Server
    identity: dict[str, Any]


def make_crew(
    step: Step | None,
    params: Params | None,
    data: Callable[[int], Iterable[Any]] | None,
    runtime: Runtime,
    local_steps: int,
    weight: Weight,
    seed: int,
    server_tx: optax.GradientTransformation | None,
    num_clocks: int | None = None,
) -> Crew:
    """Check step, parameters and data by their shapes, then make workers and server."""
    params = getattr(step, "params", None) if params is None else params
    for name, value in (("step", step), ("params", params), ("data", data)):
        if value is None:
            raise ValueError(
                f"`train({name}=...)` is missing; only `Virtual(compute=False)` goes without."
            )
    assert step is not None
    assert data is not None
    if not callable(data):
        raise TypeError(f"`train(data=...)` must be a function worker -> batches, got {data!r}.")
    devices = runtime.place()
    feeds = [Feed(data(worker), devices[worker], worker) for worker in range(len(devices))]
    shards = getattr(data, "num_workers", len(devices))
    if shards != len(devices):
        raise ValueError(
            f"`train(data=...)` is split over {shards} workers, but the run has {len(devices)}; "
            "give both the same number."
        )
    checked: set[Any] = set()
    for feed in feeds:
        kind = kind_of(feed.peek())
        if kind not in checked:
            checked.add(kind)
            check_step(step, params, feed.peek())
    averaged = averaged_leaves(step, params) if hasattr(step, "averaged") else None
    server = Server(params, server_tx, weight=weight, averaged=averaged)
    program = program_of(step)
    key = jax.random.key(seed)
    workers = [
        Worker(
            index,
            program,
            device,
            server.params,
            feed,
            key,
            weight,
            server.device,
            local_steps,
            num_clocks,
        )
        for index, (device, feed) in enumerate(zip(devices, feeds, strict=True))
    ]
    identity = {
        "params": digest(*jax.tree.leaves(params)),
        "batches": [digest(*jax.tree.leaves(feed.peek())) for feed in feeds],
        "step": digest(workers[0].lower().as_text()),
        "server_tx": digest(server.program()),
        "jax": jax.__version__,
        "platforms": sorted({device.platform for device in devices}),
    }
    return Crew(workers, server, identity)


def digest(*parts: Any) -> str:
    """A short fingerprint of arrays or text, the same in every process."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            sha.update(part.encode())
        else:
            array = np.asarray(part)
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def rehearse(
    step: Step | None,
    *,
    params: Params | None,
    data: Callable[[int], Iterable[Any]] | None,
    runtime: Runtime,
    server_tx: optax.GradientTransformation | None = None,
    local_steps: int = 1,
    weight: Weight = "mean",
    seed: int = 0,
    **others: Any,
) -> list[dict[str, Any]]:
    """Compile one clock on each device, run it, and train nothing.

    Args:
        step, params, data, runtime, server_tx, local_steps, weight, seed: as for `train`.
        **others: the rest of what `train` takes, ignored.

    Returns:
        One row a device: `device`, `workers` on it, and what `Worker.rehearse` measures.

    Raises:
        ValueError: as `train` does, or if the runtime computes nothing.
    """
    del others
    if not runtime.computes:
        raise ValueError("there is nothing to compile: the runtime runs the clockwork alone.")
    crew = make_crew(step, params, data, runtime, local_steps, weight, seed, server_tx)
    first = {worker.device: worker for worker in reversed(crew.workers)}
    count = Counter(worker.device for worker in crew.workers)
    return [
        {"device": str(device), "workers": count[device], **worker.rehearse()}
        for device, worker in sorted(first.items(), key=lambda item: item[1].index)
    ]
