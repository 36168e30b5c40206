"""A process of a worker that computes by PyTorch.

It is told a system and its sleeps, one a step, makes the steps, and answers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.benchmarks.peers.case import BOUND, Case, pause

if TYPE_CHECKING:
    import torch

RATE = 1e-3  # of learning


class Place(NamedTuple):
    """Where a worker is among the others.

    Attributes:
        rank: which it is.
        workers: how many they are.
        store: a file in which they find each other.
    """

    rank: int
    workers: int
    store: str


def worker(pipe: Connection, place: Place, case: Case, names: Sequence[str]) -> None:
    """What the process does, until it is told None."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # reachable from nowhere else
    os.environ.setdefault("RUST_LOG", "error")  # torchft's, a dozen lines an exchange
    import torch
    import torch.distributed as dist

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // place.workers))
    method = f"file://{place.store}"
    dist.init_process_group("gloo", method, rank=place.rank, world_size=place.workers)
    try:
        with contextlib.ExitStack() as stack:
            made = {name: SYSTEMS[name](case, place, stack) for name in names}
            pipe.send("ready")
            while (told := pipe.recv()) is not None:
                name, sleeps = told
                for seconds in sleeps:
                    pause(seconds)
                    made[name]()
                pipe.send("done")
    finally:
        dist.destroy_process_group()


def model_of(case: Case) -> torch.nn.Module:
    """Four square tanh layers without biases, the same on all workers."""
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(case.size.width, case.size.width, bias=False) for _ in range(4)]
    return torch.nn.Sequential(*[part for layer in layers for part in (layer, torch.nn.Tanh())])


def step_of(case: Case, model: torch.nn.Module, optimizer: Any) -> Callable[[], None]:
    """One step of a model."""
    import torch

    batch = torch.randn(case.size.batch, case.size.width)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    return step


def _sgd(model: torch.nn.Module) -> Any:
    import torch

    return torch.optim.SGD(model.parameters(), lr=RATE)


def _alone(case: Case, place: Place, stack: contextlib.ExitStack) -> Callable[[], None]:
    model = model_of(case)
    return step_of(case, model, _sgd(model))


def _ddp(case: Case, place: Place, stack: contextlib.ExitStack) -> Callable[[], None]:
    """Gradients are averaged in each step, while the backward pass goes on."""
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(model_of(case), gradient_as_bucket_view=True)
    return step_of(case, model, _sgd(model))


def _averager(case: Case, place: Place, stack: contextlib.ExitStack) -> Callable[[], None]:
    """Parameters are averaged after so many local steps, in one all-reduce."""
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    model = model_of(case)
    averager = PeriodicModelAverager(period=case.local_steps, warmup_steps=0)
    step = step_of(case, model, _sgd(model))

    def averaged() -> None:
        step()
        averager.average_parameters(model.parameters())

    return averaged


def _torchft(case: Case, place: Place, stack: contextlib.ExitStack) -> Callable[[], None]:
    """Parameters are averaged after so many local steps, among those that are still there."""
    import torch.distributed as dist
    from torchft import Manager, ProcessGroupGloo
    from torchft.coordination import LighthouseServer
    from torchft.local_sgd import LocalSGD

    address = [None]
    if place.rank == 0:
        lighthouse = LighthouseServer(bind="127.0.0.1:0", min_replicas=place.workers)
        stack.callback(lighthouse.shutdown)
        address = [lighthouse.address()]
    dist.broadcast_object_list(address)
    model = model_of(case)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(),
        load_state_dict=model.load_state_dict,
        state_dict=model.state_dict,
        min_replica_size=place.workers,
        use_async_quorum=False,
        init_sync=False,  # all begin with the same parameters
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=address[0],
        replica_id=f"worker_{place.rank}",
        hostname="127.0.0.1",
    )
    stack.enter_context(contextlib.nullcontext(store))  # lives as long as the manager
    stack.callback(manager.shutdown)
    optimizer = _sgd(model)
    stack.enter_context(LocalSGD(manager, model, optimizer, sync_every=case.local_steps))
    return step_of(case, model, optimizer)


SYSTEMS = {
    BOUND: _alone,
    "PyTorch DDP": _ddp,
    "PyTorch averager": _averager,
    "torchft LocalSGD": _torchft,
}
