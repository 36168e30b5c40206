"""How batches get to a worker's device in time.

A `Feed` stands between an iterator of batches and a worker. It places them on the worker's device,
ahead of time where it is asked to. What a worker sees in (clock, step) is the iterator's next batch
and nothing else: fetching ahead changes when a batch is drawn, never which one. So where a worker
stands in its data is how many batches it has *taken*, whatever was drawn: its *cursor*, from which
the feed can be made again. Where the iterator ends, its worker's part of the run is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from jax_ssp.data.dealt import Dealt
from jax_ssp.data.drawn import Drawn
from jax_ssp.data.elastic import Elastic
from jax_ssp.data.ledger import Ledger
from jax_ssp.data.placing import Device, put, reads_numpy, repeated, stacked
from jax_ssp.data.resuming import Again
from jax_ssp.trees import Tree


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
        device: where to put them: a device, a slice, or the sharding of one batch; None for the
            default.
        worker: the worker, for error messages.
        again: gives the same batches from the first one on, so that the feed can be made again at
            another place; None if nothing does.

    Raises:
        TypeError: if `iterator` cannot be iterated over, or gives examples one by one; from what
            draws a batch, if a leaf of it is no array of numbers.
        TypeError, ValueError: if `worker` is no integer of at least 0.

    Example:
        >>> import numpy as np
        >>> feed = Feed(iter(np.arange(6.0).reshape(3, 2)), None, worker=0)
        >>> feed.prefetch(steps=1)
        >>> feed.take(steps=2).tolist()
        [[0.0, 1.0], [2.0, 3.0]]
        >>> feed.take(steps=1).tolist()
        [4.0, 5.0]
    """

    def __init__(
        self, iterator: Iterable[Tree], device: Device, worker: int, again: Again | None = None
    ) -> None:
        self._begin(Drawn(iterator, worker, again), device)

    @classmethod
    def of(cls, data: Callable[[int], Iterable[Tree]], device: Device, worker: int) -> Feed:
        """The feed of a worker, from the function that gives each of them its batches.

        Args:
            data: worker -> its batches.
            device: where to put them.
            worker: whose.
        """
        again = partial(data, worker)
        return cls(again(), device, worker, again)

    @classmethod
    def dealt(cls, source: Elastic, ledger: Ledger, device: Device, worker: int) -> Feed:
        """The feed of a worker from an elastic source: the batches that the ledger gives it.

        Args:
            source: of the batches.
            ledger: of the run; it has given a clock its batches when that is begun.
            device: where to put them.
            worker: whose.
        """
        feed = object.__new__(cls)
        feed._begin(Dealt(source, ledger, worker), device)
        return feed

    def _begin(self, drawn: Drawn | Dealt, device: Device) -> None:
        self._drawn = drawn
        self._device = device
        self._reads_numpy = reads_numpy(device)
        # What a `take` of the next batches returns: of how many, of which, and that.
        self._placed: tuple[int, Any, Tree] | None = None

    @property
    def iterator(self) -> Any:
        """What the batches are drawn from."""
        return self._drawn.iterator

    def waiting(self) -> tuple[int, float] | None:
        """For which batch the iterator is waited for, and for how long (seconds), if it is."""
        return self._drawn.waiting()

    @property
    def taken(self) -> int:
        """The cursor of its worker: how many batches were taken, or passed over."""
        return self._drawn.taken

    @property
    def has_drawn(self) -> bool:
        """Whether the next batch is here already."""
        return bool(self._drawn.batches)

    def peek(self) -> Tree:
        """The next batch as the iterator gave it, without taking it.

        Raises:
            ValueError: if the iterator has ended.
        """
        self._drawn.need(1)
        return self._drawn.batches[0]

    def ready(self, steps: int = 1) -> int:
        """For how many of the next `steps` local steps of a clock there is data.

        They are all, until the iterator ends: its last clock has as many steps as there are
        batches left. A last batch of another shape, which cannot be stacked on the others, makes a
        clock of one step by itself.

        Raises:
            Exception: what the iterator raised before it gave so many.
        """
        placed = self._placed
        if placed is not None and steps <= placed[0]:
            return steps
        return self._drawn.ready(steps)

    def example(self, steps: int = 1) -> Tree:
        """What `take(steps)` gives, by shapes and place: the next batch, repeated, not taken."""
        batch = self.peek()
        if steps > 1:
            batch = repeated(batch, steps, self._device)
        return put(batch, self._device, stacked=steps > 1)

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
        drawn, placed = self._drawn, self._placed
        which = drawn.need(steps)
        batch = self._place(steps) if placed is None or placed[1] != which else placed[2]
        self._placed = None
        drawn.take(steps)
        return batch

    def prefetch(self, steps: int = 1) -> None:
        """Draws what `take(steps)` will return, and starts its copy to the device.

        If another number of steps is taken after all, this was in vain and does no harm. It raises
        nothing: what goes wrong here is raised by the `take` that needs it.

        Args:
            steps: local steps, at least 1.
        """
        which, placed = self._drawn.draw(steps), self._placed
        if which is None or (placed is not None and placed[1] == which):
            return
        try:
            self._placed = steps, which, self._place(steps)
        except (ValueError, TypeError):
            self._placed = None

    def skip(self, steps: int = 1) -> None:
        """Passes over the batches of the next `steps` local steps, or as many as there are.

        Raises:
            Exception: what the iterator raised before it gave so many.
        """
        self._placed = None
        self._drawn.skip(steps)

    def _place(self, steps: int) -> Tree:
        drawn = self._drawn
        if steps == 1:
            batch = drawn.batches[0]
            return batch if drawn.only_numpy and self._reads_numpy else put(batch, self._device)
        return stacked(drawn.batches[:steps], self._device, drawn.worker, drawn.taken)

    # To be there again.

    def state(self) -> dict[str, Any]:
        """Where the worker stands in its data, as facts for JSON; `at` goes on from there.

        They are its `cursor`, and the iterator's own state before the next batch, if it tells.
        """
        return self._drawn.state()

    def at(self, cursor: int, state: Mapping[str, Any] | None = None) -> Feed:
        """A feed of the same batches, so many of which are taken; this one is used no more.

        An iterator with `get_state` and `set_state` is put where it stood. Any other passes over
        what was taken; to go back it is made anew.

        Args:
            cursor: batches taken.
            state: what `state` gave there or earlier, in this process or another; None where
                nothing is known.

        Raises:
            ValueError: if the iterator cannot go there, or the data ends before.

        Example:
            >>> feed = Feed.of(lambda worker: range(9), None, worker=0)
            >>> feed.skip(5)
            >>> int(feed.at(3).take())
            3
        """
        return self._with(self._drawn.at(cursor, state))

    def rewound(self, cursor: int) -> Feed:
        """A feed of the same batches at a place where this one has been; see `at`."""
        return self._with(self._drawn.rewound(cursor))

    def _with(self, drawn: Drawn | Dealt) -> Feed:
        feed = object.__new__(type(self))
        feed._begin(drawn, self._device)
        return feed

    def check_goes_back(self) -> None:
        """Raise ValueError, with the remedy, if `at` could not give the same batches again.

        To be asked before the first batch is taken, where a run may have to go on from elsewhere.
        An iterator without `get_state` and `set_state` is made anew, to compare its first batch.
        """
        self._drawn.check_goes_back()
