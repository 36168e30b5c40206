"""What ends a run by counting: the clocks of each worker, or what is merged in total."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from jax_ssp.checks import integer, optional, put


class Totals(NamedTuple):
    """What is merged: deltas, their local steps, and their examples."""

    updates: int = 0
    steps: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Ends:
    """The counts that end a run; the first one that is reached does. None: no end by that.

    A merge is never split, so one of several deltas may go past a total.

    Args:
        num_clocks: clocks that each worker finishes.
        max_updates: deltas merged in total.
        max_steps: local steps merged in total.
        max_samples: examples merged in total.

    Raises:
        TypeError, ValueError: if one is not an integer of at least 1.

    Example:
        >>> Ends(max_updates=8, max_samples=1000).reached(updates=7, steps=7, samples=1024)
        'max_samples'
    """

    num_clocks: int | None = None
    max_updates: int | None = None
    max_steps: int | None = None
    max_samples: int | None = None

    def __post_init__(self) -> None:
        for column in fields(self):
            put(self, column.name, optional, integer, least=1)

    @property
    def by_total(self) -> bool:
        """Whether a total of what is merged can end the run."""
        return not (self.max_updates is self.max_steps is self.max_samples is None)

    def reached(self, updates: int, steps: int, samples: int) -> str | None:
        """The name of a total that is reached; None if none is.

        Args:
            updates, steps, samples: deltas, local steps and examples merged so far.
        """
        if self.max_updates is not None and updates >= self.max_updates:
            return "max_updates"
        if self.max_steps is not None and steps >= self.max_steps:
            return "max_steps"
        if self.max_samples is not None and samples >= self.max_samples:
            return "max_samples"
        return None


NO_ENDS = Ends()
TOTALS = ("max_updates", "max_steps", "max_samples")
"""The names that `Ends.reached` can give."""
