"""What ends a run by counting: the clocks of each worker, or what is merged in total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

from jax_ssp.checks import integer, optional, put


class Counted(Protocol):
    """What says how much it took to compute a delta: a push, or its settled clock."""

    @property
    def steps(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def tokens(self) -> int: ...


class Totals(NamedTuple):
    """What is merged: deltas, their local steps, their examples, and the tokens in these."""

    updates: int = 0
    steps: int = 0
    samples: int = 0
    tokens: int = 0

    def and_of(self, merged: Counted) -> Totals:
        """What is merged once this delta is too.

        Example:
            >>> Totals(1, 4, 32).and_of(Totals(1, 2, 16, 1024))
            Totals(updates=2, steps=6, samples=48, tokens=1024)
        """
        updates, steps, samples, tokens = self
        return Totals(
            updates + 1, steps + merged.steps, samples + merged.samples, tokens + merged.tokens
        )


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

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Ends:
        """Those that facts name, among others perhaps: `experiment` of a tape's header, say."""
        return cls(**{column.name: facts[column.name] for column in fields(cls)})

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

    def lowered(self, before: Ends, clocks: int, merged: Totals) -> str | None:
        """What is wrong with these as the new ends of a run; None if nothing is.

        Args:
            before: the ends that it had.
            clocks: of the worker that is furthest.
            merged: what is.

        Example:
            >>> Ends(max_updates=8).lowered(Ends(max_updates=20), 4, Totals(updates=12))
            '`max_updates` is lowered to 8, and 12 are done'
        """
        counts = clocks, merged.updates, merged.steps, merged.samples
        for column, done in zip(fields(self), counts, strict=True):
            here, there = getattr(self, column.name), getattr(before, column.name)
            if here is None or (there is not None and here >= there):
                continue  # it is raised, or as it was
            if here < done:
                return f"`{column.name}` is lowered to {here}, and {done} are done"
        return None


NO_ENDS = Ends()
TOTALS = ("max_updates", "max_steps", "max_samples")
"""The names that `Ends.reached` can give."""
