"""Arrays in memory that any number of workers go through together, epoch by epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_ssp import checks
from jax_ssp.checks import integer, shown
from jax_ssp.data.memory import as_arrays, chosen_of, num_examples
from jax_ssp.trees import Tree

_KEPT = 8  # orders, as workers may be in several epochs


class Epochs:
    """Gives all workers together each example once an epoch, whoever comes or goes.

    The examples of an epoch are put in a new order by `seed`; batch after batch of it goes to the
    workers in turn. Choose it where workers may be lost, may join, or may be another number when
    the run is resumed. With `Shards`, each worker has examples of its own instead.

    Args:
        arrays: pytree of arrays in memory, all with the examples along their first axis.
        batch_size: examples in one batch of one worker.
        seed: non-negative; it decides every order.

    Attributes:
        batches_per_epoch: of all workers together. What does not fill a last batch, fewer than
            `batch_size` examples and others each time, is left out.
        samples_per_epoch: examples in these. It is what `train(num_epochs=...)` counts with.
        fresh: that each batch is in new arrays, so `Feed` need not copy it.

    Raises:
        TypeError: if a number is not whole.
        ValueError: if the arrays differ in length, or have too few examples for a batch.

    Example:
        >>> epochs = Epochs({"x": np.arange(8.0)}, batch_size=2)
        >>> epochs.batches_per_epoch
        4
        >>> batches = [epochs.batch(epoch=3, index=index)["x"] for index in range(4)]
        >>> sorted(np.concatenate(batches).tolist())
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """

    fresh = True

    def __init__(self, arrays: Tree, batch_size: int, seed: int = 0) -> None:
        self.batch_size = integer("Epochs(batch_size=...)", batch_size, least=1)
        self.seed = checks.seed("Epochs(seed=...)", seed)
        self.arrays = as_arrays("Epochs", arrays)
        self.num_examples = num_examples("Epochs", self.arrays)
        if not self.num_examples:
            raise ValueError(f"`Epochs(arrays=...)` holds no example, got {shown(arrays)}.")
        if self.num_examples < self.batch_size:
            raise ValueError(
                f"`Epochs(batch_size={self.batch_size})` is more than the {self.num_examples} "
                f"examples of `arrays`, {shown(arrays)}; lower it to at most {self.num_examples}."
            )
        self.batches_per_epoch = self.num_examples // self.batch_size
        self.samples_per_epoch = self.batches_per_epoch * self.batch_size
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, epoch: int, index: int) -> Tree:
        """A batch; any thread may ask.

        Args:
            epoch: from 0 on.
            index: in the epoch, from 0 to `batches_per_epoch` - 1.

        Raises:
            TypeError, ValueError: if there is none of these numbers.
        """
        epoch = integer("Epochs.batch(epoch=...)", epoch, least=0)
        most = self.batches_per_epoch - 1
        index = integer("Epochs.batch(index=...)", index, least=0, most=most)
        first = index * self.batch_size
        chosen = self._order(epoch)[first : first + self.batch_size]
        return chosen_of(self.arrays, chosen)

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:  # two threads may make the same
            # The fourth word keeps this stream apart from those of `Shards`.
            rng = np.random.default_rng([self.seed, epoch, 0, 2])
            order = rng.permutation(self.num_examples)
            for other in list(self._orders)[: 1 - _KEPT]:
                self._orders.pop(other, None)
            self._orders[epoch] = order
        return order

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_orders": {}}
