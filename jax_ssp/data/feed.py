"""How batches get to a worker's device in time.

A `Feed` stands between an iterator of batches and a worker. It places them on the worker's device,
ahead of time where it is asked to. What a worker sees in (clock, step) is the iterator's next batch
and nothing else: fetching ahead changes when a batch is drawn, never which one. So where a worker
stands in its data is how many batches it has *taken*, whatever was drawn. Where the iterator ends,
its worker's part of the run is done.
"""

import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.checks import integer
from jax_ssp.data.arrays import taken
from jax_ssp.failures import note
from jax_ssp.placement import Placement
from jax_ssp.trees import Tree

Device: TypeAlias = jax.Device | jax.sharding.Sharding | None


class Feed:
    """What a runtime draws a worker's batches from: placed on its device, fetched ahead on request.

    Not thread-safe: it belongs to the thread of its worker. Arrays on the host are copied as they
    are drawn, so an iterator may fill the same buffers again; one that never does can say so by an
    attribute `fresh = True`, and its arrays are used as they are. What `take` returns may alias
    arrays of the iterator (`jax.device_put` aliases what is already in place), so it must not be
    donated.

    Args:
        iterator: the batches, pytrees of arrays: NumPy's, JAX's, or of a library whose arrays offer
            themselves by `__array__` or `__dlpack__` (tensors of torch and TensorFlow on the CPU).
            Something to be iterated over will do, such as a `torch.utils.data.DataLoader`: its
            worker's part of the run is then one pass over it.
        device: where to put them: a device, or the sharding of one batch; None for the default.
        worker: the worker, for error messages.

    Attributes:
        iterator: what the batches are drawn from.

    Raises:
        TypeError: if `iterator` cannot be iterated over, or gives examples one by one; from what
            draws a batch, if a leaf of it is no array of numbers.
        TypeError, ValueError: if `worker` is no integer of at least 0.

    Example:
        >>> feed = Feed(iter(np.arange(6.0).reshape(3, 2)), jax.devices()[0], worker=0)
        >>> feed.prefetch(steps=1)
        >>> feed.take(steps=2).tolist()
        [[0.0, 1.0], [2.0, 3.0]]
        >>> feed.take(steps=1).tolist()
        [4.0, 5.0]
    """

    def __init__(self, iterator: Iterable[Tree], device: Device, worker: int) -> None:
        worker = integer("Feed(worker=...)", worker, least=0)
        if hasattr(iterator, "__getitem__") and not hasattr(iterator, "__iter__"):
            raise TypeError(
                f"`data(worker={worker})` must return an iterator of batches, got a "
                f"{type(iterator).__name__}, which gives examples one by one; wrap it in a "
                "`torch.utils.data.DataLoader(dataset, batch_size=...)`, or give `ssp.data.Shards`."
            )
        try:
            self.iterator = iter(iterator)
        except Exception as error:  # an array of no dimensions has `__iter__`, and refuses
            raise TypeError(
                f"`data(worker={worker})` must return an iterator of batches, got "
                f"{type(iterator).__name__}."
            ) from error
        self._fresh = getattr(self.iterator, "fresh", False) is True
        self._device = device
        self._worker = worker
        self._batches: deque[Tree] = deque()  # drawn and not taken yet, on the host
        self._taken = 0  # batches
        self._end: Exception | None = None  # what the iterator raised, once it has
        self._drawing: float | None = None  # since when it is asked for a batch
        self._placed: tuple[int, Tree] | None = None  # (steps, what take(steps) will return)

    def waiting(self) -> tuple[int, float] | None:
        """For which batch the iterator is waited for, and for how long (seconds), if it is."""
        since = self._drawing
        if since is None:
            return None
        return self._taken + len(self._batches), time.monotonic() - since

    @property
    def taken(self) -> int:
        """The cursor of its worker: how many batches were taken, or passed over."""
        return self._taken

    def peek(self) -> Tree:
        """The next batch as the iterator gave it, without taking it.

        Raises:
            ValueError: if the iterator has ended.
        """
        self._need(1)
        return self._batches[0]

    def ready(self, steps: int = 1) -> int:
        """For how many of the next `steps` local steps of a clock there is data.

        They are all, until the iterator ends: its last clock has as many steps as there are
        batches left. A last batch of another shape, which cannot be stacked on the others, makes a
        clock of one step by itself.

        Raises:
            Exception: what the iterator raised before it gave so many.
        """
        if not self._draw(steps) and not self._has_ended:
            self._need(steps)
        left = min(steps, len(self._batches))
        if left > 1 and kind_of(self._batches[left - 1]) != kind_of(self._batches[0]):
            ends_with_it = not self._draw(left + 1) and self._has_ended
            left -= ends_with_it  # if it does not end there, `take` says what is wrong
        return left

    @property
    def _has_ended(self) -> bool:
        return isinstance(self._end, StopIteration)

    def example(self, steps: int = 1) -> Tree:
        """What `take(steps)` gives, by shapes and place: the next batch, repeated, not taken."""
        batch = self.peek()
        if steps > 1:
            batch = jax.tree.map(lambda leaf: _stack((leaf,) * steps, self._device), batch)
        return self._put(batch)

    def take(self, steps: int = 1) -> Tree:
        """The batches of the next `steps` local steps, on the device.

        Args:
            steps: local steps, at least 1.

        Returns:
            For one step the batch as it is; for more, the batches stacked along a new first axis of
            length `steps`.

        Raises:
            ValueError: if the iterator has ended, or the batches to stack differ in structure,
                shape or dtype.
        """
        if self._placed is None or self._placed[0] != steps:
            self._need(steps)
            self._placed = steps, self._place(steps)
        _, batch = self._placed
        self._placed = None
        for _ in range(steps):
            self._batches.popleft()
        self._taken += steps
        return batch

    def prefetch(self, steps: int = 1) -> None:
        """Draws what `take(steps)` will return, and starts its copy to the device.

        If another number of steps is taken after all, this was in vain and does no harm. It raises
        nothing: what goes wrong here is raised by the `take` that needs it.

        Args:
            steps: local steps, at least 1.
        """
        if self._placed is not None and self._placed[0] == steps:
            return
        if self._draw(steps):
            with suppress(ValueError, TypeError):
                self._placed = steps, self._place(steps)

    def skip(self, steps: int = 1) -> None:
        """Passes over the batches of the next `steps` local steps, or as many as there are.

        Raises:
            Exception: what the iterator raised before it gave so many.
        """
        if not self._draw(steps) and not self._has_ended:
            self._need(steps)
        self._placed = None
        passed = min(steps, len(self._batches))
        for _ in range(passed):
            self._batches.popleft()
        self._taken += passed

    def _draw(self, steps: int) -> bool:
        """Draws until `steps` batches wait here; False if the iterator does not give as many."""
        while len(self._batches) < steps and self._end is None:
            self._drawing = time.monotonic()
            which = f"`data(worker={self._worker})`, batch {self._taken + len(self._batches)}"
            try:
                batch = next(self.iterator)
            except Exception as error:
                note(error, f"in {which}")
                self._end = error
            else:
                self._add(batch, which)
            self._drawing = None
        return len(self._batches) >= steps

    def _add(self, batch: Any, which: str) -> None:
        try:
            self._batches.append(taken(batch, which, self._fresh))
        except Exception as error:  # raised where the batch is needed
            self._end = error

    def _need(self, steps: int) -> None:
        if self._draw(steps):
            return
        assert self._end is not None
        if self._has_ended:
            count = self._taken + len(self._batches)
            which = f"`data(worker={self._worker})`"
            if not count:
                raise ValueError(
                    f"{which} gives no batch at all; its iterator was empty, or is used up: make a "
                    "new one in each call, with at least one batch."
                )
            raise ValueError(f"{which} ended after {count} batch{'es' * (count != 1)}.")
        raise self._end

    def _place(self, steps: int) -> Tree:
        if steps == 1:
            return self._put(self._batches[0])
        batches = list(islice(self._batches, steps))
        for index, batch in enumerate(batches):
            if kind_of(batch) != kind_of(batches[0]):
                raise self._unlike(batches, index)
        device = self._device
        if isinstance(device, jax.sharding.NamedSharding):  # the new axis stays whole
            device = device.update(spec=jax.P(None, *device.spec))
        stacked = jax.tree.map(lambda *leaves: _stack(leaves, self._device), *batches)
        return self._put(stacked, device)

    def _put(self, batch: Tree, device: Device = None) -> Tree:
        """A batch on the device; NumPy arrays stay what they are where programs read those."""
        device = self._device if device is None else device
        on_host = isinstance(device, jax.Device) and Placement.of(device).on_host
        if on_host and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch)):
            return batch
        return jax.device_put(batch, device)

    def _unlike(self, batches: list[Tree], index: int) -> ValueError:
        """The error to raise as batches[index] cannot be stacked on batches[0]: says where."""
        first, other = _describe(batches[0]), _describe(batches[index])
        path = next(p for p in {**first, **other} if first.get(p) != other.get(p))
        return ValueError(
            f"`data(worker={self._worker})` must give batches of one shape to a clock of "
            f"{len(batches)} local steps, but {path} is {first.get(path, 'missing')} in batch "
            f"{self._taken} and {other.get(path, 'missing')} in batch {self._taken + index}; leave "
            "out the incomplete last batch, or pad it."
        )


def kind_of(batch: Tree) -> tuple[Any, ...]:
    """What batches must have in common to be stacked, or traced once: structure, shapes, dtypes."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((np.shape(leaf), _dtype(leaf)) for leaf in leaves)


def _describe(batch: Tree) -> dict[str, str]:
    """The same in words: dtype and shape of each leaf by its path, and the structure."""
    leaves, structure = jax.tree.flatten_with_path(batch)
    described = {
        f"batch{jax.tree_util.keystr(path)}": f"{_dtype(leaf)}{list(np.shape(leaf))}"
        for path, leaf in leaves
    }
    return {**described, "the structure": str(structure)}


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else type(leaf).__name__


def _stack(leaves: tuple[Any, ...], device: Device) -> np.ndarray | jax.Array:
    """One leaf of several batches, stacked: on the host, unless it is on devices already."""
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.stack(jax.device_put(leaves, device))
    return np.stack(leaves)
