"""Data that any number of workers can share: what such a source is, and what cannot be one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

from jax_ssp.checks import integer

if TYPE_CHECKING:
    from jax_ssp.trees import Tree


@runtime_checkable
class Elastic(Protocol):
    """Data of which workers may come and go: batches by epoch and number.

    Give one to `train(data=...)` in place of a function of the worker. Which worker computes on
    which batch is decided by a ledger (see `jax_ssp.data.ledger`): each batch of an epoch is given
    out once, however many workers there are meanwhile.

    Attributes:
        batches_per_epoch: at least 1, the same in each epoch.
        samples_per_epoch: examples in these; each batch holds as many.

    Example:
        >>> import numpy as np
        >>> class Squares:
        ...     batches_per_epoch, samples_per_epoch = 4, 8
        ...     def batch(self, epoch, index):
        ...         return np.array([2 * index, 2 * index + 1]) ** 2
        >>> isinstance(Squares(), Elastic)
        True
    """

    batches_per_epoch: int
    samples_per_epoch: int

    def batch(self, epoch: int, index: int) -> Tree:
        """A batch: a function of these two numbers alone. Threads of several workers call it.

        Args:
            epoch: from 0 on, without end.
            index: in the epoch, from 0 to `batches_per_epoch` - 1.
        """
        ...


Data: TypeAlias = "Callable[[int], Iterable[Tree]] | Elastic"
"""What `train(data=...)` takes: worker -> its batches, or data that all share."""


def is_elastic(data: Any) -> TypeGuard[Elastic]:
    """Whether `train(data=...)` is such a source, and not a function of the worker.

    Example:
        >>> is_elastic(lambda worker: iter([1.0]))
        False
    """
    return callable(getattr(data, "batch", None)) and hasattr(data, "batches_per_epoch")


def check_elastic(field: str, data: Elastic) -> Elastic:
    """Raise TypeError or ValueError, naming the remedy, if its numbers cannot be."""
    counts: dict[str, int] = {}
    for name in ("batches_per_epoch", "samples_per_epoch"):
        counts[name] = integer(f"{field}.{name}", getattr(data, name, None), least=1)
    batches, samples = counts.values()
    if samples % batches:
        raise ValueError(
            f"`{field}` says {samples} `samples_per_epoch` in {batches} `batches_per_epoch`, but "
            "each batch of an epoch must hold as many; leave the incomplete last one out."
        )
    return data


def check_change(data: Any, before: int, now: int) -> None:
    """Raise ValueError if another number of workers cannot go on with this data.

    Args:
        data: as given to `train`.
        before: how many workers there were.
        now: how many there are to be.

    Example:
        >>> check_change(lambda worker: iter([1.0]), before=4, now=3)
    """
    if before == now or is_elastic(data) or getattr(data, "num_workers", None) is None:
        return
    raise ValueError(
        f"the run was begun by {before} workers, and `data` is a {type(data).__name__}, which is "
        f"split over a fixed number of them, so {now} cannot go on with it: each example would "
        f"belong to another worker. Go on with {before}, or begin with `ssp.data.Epochs`, which "
        "any number can share."
    )
