"""The feeds of a run's workers, tried on its step before anything starts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax

from jax_ssp.data.elastic import is_elastic
from jax_ssp.data.feed import Feed
from jax_ssp.data.ledger import Ledger
from jax_ssp.data.placing import kind_of
from jax_ssp.placement import Place
from jax_ssp.runtimes.task import Task
from jax_ssp.slices import Slice
from jax_ssp.trees import digest
from jax_ssp.worker.check import check_step


def make_feeds(task: Task, devices: Sequence[Place]) -> tuple[list[Feed], Ledger | None]:
    """The batches of each worker, with one of each kind tried on the step by its shapes.

    Args:
        task: what is trained, with nothing missing.
        devices: of the workers, where they compute.

    Returns:
        The feeds; and the ledger that deals their batches, where the source is elastic.

    Raises:
        TypeError, ValueError: if the data cannot be that of so many workers, or of this step.
    """
    step, data, ledger = task.step, task.data, None
    assert step is not None  # as has been seen
    assert data is not None
    if is_elastic(data):
        ledger = Ledger(data.batches_per_epoch, len(devices))
        feeds = [Feed.dealt(data, ledger, device, worker) for worker, device in enumerate(devices)]
    else:
        feeds = [Feed.of(data, device, worker) for worker, device in enumerate(devices)]
        _check_own(data, feeds)
    slice = devices[0] if isinstance(devices[0], Slice) else None
    for feed in {kind_of(feed.peek()): feed for feed in reversed(feeds)}.values():
        with contextlib.nullcontext() if slice is None else slice.entered():
            check_step(step, task.params, feed.peek())
        if slice is not None:
            slice.of_batch(feed.peek())
    return feeds, ledger


def first_batches(task: Task, feeds: Sequence[Feed]) -> list[str]:
    """What a replay compares of the data: the first batch of each worker.

    Of a source that is elastic it is one, whoever takes it: as many workers as there are can go on.
    """
    first = feeds[:1] if is_elastic(task.data) else feeds
    return [digest(*jax.tree.leaves(feed.peek())) for feed in first]


def _check_own(data: Any, feeds: Sequence[Feed]) -> None:
    """Raise ValueError unless each worker has batches of its own."""
    shards = getattr(data, "num_workers", len(feeds))
    if shards != len(feeds):
        raise ValueError(
            f"`train(data=...)` is split over {shards} workers, but the run has {len(feeds)}; "
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
