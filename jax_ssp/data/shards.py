"""Batches: who trains on which examples, and how they get to the worker's device in time.

`Shards` splits arrays in memory over the workers and gives each an endless, resumable iterator of
batches. `Feed` stands between any iterator of batches and a runtime: it places them on the worker's
device, ahead of time where it is asked to. What a worker sees in (clock, step) is the iterator's
next batch and nothing else: fetching ahead changes when a batch is drawn, never which one.
Where the iterator ends, its worker's part of the run is done.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp import checks
from jax_ssp.checks import instance, integer, shown
from jax_ssp.failures import note
from jax_ssp.placement import Placement

__all__ = ["ShardIterator", "Shards"]

PyTree: TypeAlias = Any
Device: TypeAlias = jax.Device | jax.sharding.Sharding | None


class Shards:
    """Splits arrays in memory over the workers; `shards(worker)` iterates over a worker's batches.

    The examples are permuted once with `seed`, and worker i owns every `num_workers`-th one from
    the i-th on. In each epoch it goes through its own examples in a new order; the incomplete last
    batch of an epoch is left out.

    Args:
        arrays: pytree of arrays in memory, all with the examples along their first axis.
        batch_size: examples in one batch of one worker.
        num_workers: workers that share the examples.
        seed: non-negative; it decides who owns which examples, and every order.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if the arrays differ in length, or there are too few examples for each worker to
            fill a batch.

    Example:
        >>> shards = Shards({"x": np.arange(8.0)}, batch_size=2, num_workers=2)
        >>> batches = shards(worker=0)
        >>> epoch = [next(batches)["x"] for _ in range(2)]
        >>> sorted(np.concatenate(epoch).tolist())
        [0.0, 2.0, 3.0, 6.0]
    """

    def __init__(self, arrays: PyTree, batch_size: int, num_workers: int, seed: int = 0) -> None:
        self.batch_size = integer("Shards(batch_size=...)", batch_size, least=1)
        self.num_workers = integer("Shards(num_workers=...)", num_workers, least=1)
        self.seed = checks.seed("Shards(seed=...)", seed)
        self.arrays = _arrays(arrays)
        self.num_examples = _num_examples(self.arrays)
        self._check_sizes()
        # The fourth word keeps this stream apart from those of (seed, worker, epoch).
        self.order = np.random.default_rng([self.seed, 0, 0, 1]).permutation(self.num_examples)

    def __call__(self, worker: int) -> "ShardIterator":
        """A fresh iterator over the batches of `worker`."""
        worker = integer("Shards(...)(worker=...)", worker)
        if not 0 <= worker < self.num_workers:
            raise ValueError(
                f"`Shards(...)(worker)` must be in 0..{self.num_workers - 1}, got {worker}; "
                "give Shards the number of workers of the run."
            )
        return ShardIterator(self, worker)

    def _check_sizes(self) -> None:
        total, workers = self.num_examples, self.num_workers
        if total < workers:
            raise ValueError(
                f"`Shards(num_workers={workers})` leaves worker {total} with 0 of the {total} "
                f"examples of `arrays`; lower `num_workers` to at most {total}."
            )
        smallest = total // workers  # examples of the last worker
        if smallest < self.batch_size:
            raise ValueError(
                f"`Shards(batch_size={self.batch_size})` is more than the {smallest} examples of "
                f"worker {workers - 1}, of {total} in `arrays` for {workers} workers; lower "
                f"`batch_size` to at most {smallest}, or `num_workers`."
            )


class ShardIterator(Iterator[PyTree]):
    """The endless batches of one worker, as NumPy arrays; made by `Shards`, it can be resumed.

    Attributes:
        fresh: that each batch is in new arrays, so `Feed` need not copy it.

    Example:
        >>> shards = Shards(np.arange(12), batch_size=2, num_workers=2)
        >>> batches = shards(worker=1)
        >>> state = batches.get_state()
        >>> first = next(batches)
        >>> batches.set_state(state)
        >>> np.array_equal(next(batches), first)
        True
    """

    fresh = True

    def __init__(self, shards: Shards, worker: int) -> None:
        self._arrays = shards.arrays
        self._examples = shards.order[worker :: shards.num_workers]
        self._identity = {
            "worker": int(worker),
            "num_workers": shards.num_workers,
            "num_examples": shards.num_examples,
            "batch_size": shards.batch_size,
            "seed": shards.seed,
        }
        self._go_to(epoch=0, batch=0)

    def __next__(self) -> PyTree:
        size = self._identity["batch_size"]
        start = self._batch * size
        chosen = self._order[start : start + size]
        if start + 2 * size <= len(self._order):
            self._batch += 1
        else:
            self._go_to(self._epoch + 1, batch=0)
        return jax.tree.map(lambda array: array[chosen], self._arrays)

    def get_state(self) -> dict[str, int]:
        """Where the iterator stands: a dict of integers, for JSON."""
        return {**self._identity, "epoch": self._epoch, "batch": self._batch}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to where another iterator over the same shard stood.

        Args:
            state: what `get_state` returned.

        Raises:
            ValueError: if the state is of another shard, batch size or seed.
        """
        instance("set_state(state=...)", state, Mapping, "what `get_state()` gave")
        places = {"epoch": 2**53, "batch": len(self._order) // self._identity["batch_size"] - 1}
        for name, most in places.items():
            integer(f"set_state(state=...)[{name!r}]", state.get(name), least=0, most=most)
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ValueError(
                    f"`set_state(state)` must be given a state of the same data, but {name} is "
                    f"{state.get(name)} in the state and {value} here."
                )
        self._go_to(state["epoch"], state["batch"])

    def _go_to(self, epoch: int, batch: int) -> None:
        rng = np.random.default_rng([self._identity["seed"], self._identity["worker"], epoch])
        self._epoch, self._batch = epoch, batch
        self._order = rng.permutation(self._examples)


class Feed:
    """What a runtime draws a worker's batches from: placed on its device, fetched ahead on request.

    Not thread-safe: it belongs to the thread of its worker. NumPy arrays are copied as they are
    drawn, so an iterator may fill the same buffers again; one that never does can say so by an
    attribute `fresh = True`, and its arrays are used as they are. What `take` returns may alias
    arrays of the iterator (`jax.device_put` aliases what is already in place), so it must not be
    donated.

    Args:
        iterator: the batches, pytrees of NumPy or JAX arrays.
        device: where to put them: a device, or the sharding of one batch; None for the default.
        worker: the worker, for error messages.

    Attributes:
        iterator: what the batches are drawn from.

    Example:
        >>> feed = Feed(iter(np.arange(6.0).reshape(3, 2)), jax.devices()[0], worker=0)
        >>> feed.prefetch(steps=1)
        >>> feed.take(steps=2).tolist()
        [[0.0, 1.0], [2.0, 3.0]]
        >>> feed.take(steps=1).tolist()
        [4.0, 5.0]
    """

    def __init__(self, iterator: Iterable[PyTree], device: Device, worker: int) -> None:
        if not isinstance(iterator, Iterable):
            raise TypeError(
                f"`data(worker={worker})` must return an iterator of batches, got "
                f"{type(iterator).__name__}."
            )
        self.iterator = iter(iterator)
        self._fresh = getattr(self.iterator, "fresh", False) is True
        self._device = device
        self._worker = worker
        self._batches: deque[PyTree] = deque()  # drawn and not taken yet, on the host
        self._taken = 0  # batches
        self._end: Exception | None = None  # what the iterator raised, once it has
        self._drawing: float | None = None  # since when it is asked for a batch
        self._placed: tuple[int, PyTree] | None = None  # (steps, what take(steps) will return)

    def waiting(self) -> tuple[int, float] | None:
        """For which batch the iterator is waited for, and for how long (seconds), if it is."""
        since = self._drawing
        if since is None:
            return None
        return self._taken + len(self._batches), time.monotonic() - since

    @property
    def taken(self) -> int:
        """How many batches were taken, or passed over."""
        return self._taken

    def peek(self) -> PyTree:
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

    def example(self, steps: int = 1) -> PyTree:
        """What `take(steps)` gives, by shapes and place: the next batch, repeated, not taken."""
        batch = self.peek()
        if steps > 1:
            batch = jax.tree.map(lambda leaf: _stack((leaf,) * steps, self._device), batch)
        return self._put(batch)

    def take(self, steps: int = 1) -> PyTree:
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
            try:
                batch = next(self.iterator)
                self._batches.append(batch if self._fresh else owned(batch))
            except Exception as error:
                count = self._taken + len(self._batches)
                note(error, f"in `data(worker={self._worker})`, batch {count}")
                self._end = error
            self._drawing = None
        return len(self._batches) >= steps

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

    def _place(self, steps: int) -> PyTree:
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

    def _put(self, batch: PyTree, device: Device = None) -> PyTree:
        """A batch on the device; NumPy arrays stay what they are where a program reads them so."""
        device = self._device if device is None else device
        on_host = isinstance(device, jax.Device) and Placement.of(device).on_host
        if on_host and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch)):
            return batch
        return jax.device_put(batch, device)

    def _unlike(self, batches: list[PyTree], index: int) -> ValueError:
        """The error to raise as batches[index] cannot be stacked on batches[0]: says where."""
        first, other = _describe(batches[0]), _describe(batches[index])
        path = next(p for p in {**first, **other} if first.get(p) != other.get(p))
        return ValueError(
            f"`data(worker={self._worker})` must give batches of one shape to a clock of "
            f"{len(batches)} local steps, but {path} is {first.get(path, 'missing')} in batch "
            f"{self._taken} and {other.get(path, 'missing')} in batch {self._taken + index}; leave "
            "out the incomplete last batch, or pad it."
        )


def owned(tree: PyTree) -> PyTree:
    """NumPy leaves copied: JAX may compute on their memory later, whatever is in it by then."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def _arrays(arrays: PyTree) -> PyTree:
    """The arrays of `Shards` as NumPy's."""

    def array(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        try:
            found = np.asarray(leaf)
        except Exception as error:  # of lists of several lengths, say
            raise TypeError(f"{_array_name(path)} must be an array, got {shown(leaf)}.") from error
        if found.dtype.kind in "OSUMm":
            raise TypeError(
                f"{_array_name(path)} must be an array of numbers, got {shown(leaf)} of dtype "
                f"{found.dtype}."
            )
        return found

    try:
        jax.tree.structure(arrays)
    except Exception as error:  # of a dict whose keys have no order, say
        raise TypeError(
            f"`Shards(arrays=...)` must be a tree of arrays, got {shown(arrays)}."
        ) from error
    return jax.tree_util.tree_map_with_path(array, arrays)


def _array_name(path: tuple[Any, ...]) -> str:
    return f"`Shards(arrays=...)`: arrays{jax.tree_util.keystr(path)}"


def _num_examples(arrays: PyTree) -> int:
    """The length that all arrays have in common."""
    leaves, _ = jax.tree.flatten_with_path(arrays)
    shapes = {f"arrays{jax.tree_util.keystr(path)}": np.shape(leaf) for path, leaf in leaves}
    if not shapes:
        raise ValueError("`Shards(arrays=...)` must hold at least one array, got none.")
    for name, shape in shapes.items():
        if not shape:
            raise ValueError(
                "`Shards(arrays=...)` must hold arrays with the examples along their first axis, "
                f"but {name} is a scalar, {shown(arrays)}."
            )
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"`Shards(arrays=...)` must hold arrays of one length, but {each}.")
    return next(iter(lengths.values()))


def kind_of(batch: PyTree) -> tuple[Any, ...]:
    """What batches must have in common to be stacked, or traced once: structure, shapes, dtypes."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((np.shape(leaf), _dtype(leaf)) for leaf in leaves)


def _describe(batch: PyTree) -> dict[str, str]:
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
