"""Delay models: how long a clock of a worker takes, in seconds.

A delay model is a callable `(worker, clock, steps, rng) -> seconds`. Its parameters are seconds of
ONE local step; a clock of `steps` local steps is the sum of that many independent draws. Only
`FromTrace` differs: what was measured is a whole clock. `rng` is a generator of the worker's own,
asked once a clock in the order of the clocks, so what is drawn for (worker, clock) does not depend
on the schedule that the draws lead to.

A model that can say what many clocks take at once has a method `ahead` too, whether it is a `Delay`
or not; see `Delay.ahead`. Simulations of many workers are faster then, and the same to the bit.
"""

import abc
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from jax_ssp.checks import number, several

CALL = "(worker, clock, steps, rng) -> seconds"
"""How a delay model is called."""
LONGEST = 1e18
"""The longest that anything may take (seconds): sums of such times are finite still."""

Row = TypeVar("Row")


class Delay(abc.ABC):
    """Base class of the delay models; any callable of the same signature will do as well."""

    @abc.abstractmethod
    def __call__(self, worker: int, clock: int, steps: int, rng: np.random.Generator) -> float:
        """How long a clock takes.

        Args:
            worker: the worker, counted from 0.
            clock: the clock, counted from 0.
            steps: local steps in this clock, at least 1.
            rng: the worker's own random generator.

        Returns:
            Seconds for the whole clock.
        """

    def check(self, num_workers: int) -> None:
        """Raise ValueError, naming the remedy, if it does not fit a run of so many workers."""

    def ahead(self, worker: int, count: int, rng: np.random.Generator) -> Sequence[float] | None:
        """What the next `count` calls for clocks of one step of this worker would give.

        Only for speed: a draw by itself costs far more than its share of many. Any object that is
        called as a delay model may have this method; it is used where the class that has it has
        `__call__` too, so that a subclass which changes one of the two has to say both.
        `ssp.testing.check_delay_model` checks that both give the same. Clocks of more steps are
        called for one by one, with the generator where the last block has left it: so a worker
        whose clocks are now of one step, now of more, has other delays than without this method.

        Args:
            worker: whose clocks.
            count: how many.
            rng: the worker's own random generator.

        Returns:
            Seconds, `count` of them, drawn from `rng` as calls one by one would; None, with nothing
            drawn, if they depend on more than that, such as the number of the clock.

        Example:
            >>> class Uniform:
            ...     def __call__(self, worker, clock, steps, rng):
            ...         return float(rng.random(steps).sum())
            ...
            ...     def ahead(self, worker, count, rng):
            ...         return rng.random(count).tolist()
            >>> Uniform().ahead(worker=0, count=2, rng=np.random.default_rng(0))
            [0.6369616873214543, 0.2697867137638703]
        """
        return None


# What a runtime takes: a `Delay`, or any callable of that signature. To a type checker it is `Any`,
# so that the command line shows the fields of the model that a config names, whatever it is.
DelayModel: TypeAlias = Any


def check_delay(delay: DelayModel, num_workers: int) -> None:
    """Raise ValueError if a delay model has no answer for one of so many workers, or for nobody."""
    if isinstance(delay, Delay):
        delay.check(num_workers)


def draws_ahead(delay: DelayModel) -> bool:
    """Whether a delay model has `ahead`.

    A subclass that changes what a clock takes has to say anew how to draw ahead.
    """
    return {"ahead", "__call__"} <= vars(type(delay)).keys()


def row_of(delay: Delay, rows: tuple[Row, ...], worker: int) -> Row:
    """What `rows`, one for each worker, holds for `worker`."""
    if not 0 <= worker < len(rows):
        raise ValueError(
            f"`{type(delay).__name__}(seconds=...)` must have an entry for worker {worker}, got "
            f"{len(rows)} entries; give one for each worker."
        )
    return rows[worker]


def each_seconds(field: str, value: Any, must: str) -> tuple[float, ...]:
    """Some seconds."""
    listed = several(field, value, must)
    return tuple(
        number(f"{field}[{index}]", each, least=0, most=LONGEST)
        for index, each in enumerate(listed)
    )
