"""Who trains on which examples: arrays in memory, split over the workers.

`Shards` gives each worker an endless, resumable iterator of batches. It touches no device.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from jax_ssp import checks
from jax_ssp.checks import instance, integer
from jax_ssp.data.memory import as_arrays, chosen_of, num_examples
from jax_ssp.trees import Tree


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

    Attributes:
        samples_per_epoch: the examples that all workers together are given while each goes through
            its own once: those of whole batches. Each worker leaves out what does not fill a last
            batch, fewer than `batch_size`. It is what `train(num_epochs=...)` counts with.

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
        >>> shards.samples_per_epoch
        8
    """

    def __init__(self, arrays: Tree, batch_size: int, num_workers: int, seed: int = 0) -> None:
        self.batch_size = integer("Shards(batch_size=...)", batch_size, least=1)
        self.num_workers = integer("Shards(num_workers=...)", num_workers, least=1)
        self.seed = checks.seed("Shards(seed=...)", seed)
        self.arrays = as_arrays("Shards", arrays)
        self.num_examples = num_examples("Shards", self.arrays)
        self._check_sizes()
        own = [
            len(range(worker, self.num_examples, self.num_workers))
            for worker in range(self.num_workers)
        ]
        self.samples_per_epoch = sum(count - count % self.batch_size for count in own)
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


class ShardIterator(Iterator[Tree]):
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

    def __next__(self) -> Tree:
        size = self._identity["batch_size"]
        start = self._batch * size
        chosen = self._order[start : start + size]
        if start + 2 * size <= len(self._order):
            self._batch += 1
        else:
            self._go_to(self._epoch + 1, batch=0)
        return chosen_of(self._arrays, chosen)

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
