"""Dynamic SSP: a bound in a range, chosen while training so that the fastest waits least."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy, remembered
from jax_ssp.policies.decision import Wait
from jax_ssp.policies.view import Delta, View

MOST_EXTRA = 1000  # clocks between the bounds: a grant weighs each of them


@dataclass(frozen=True)
class DSSP(Policy):
    """SSP at the bound `lower`; the fastest worker may go on to `upper` where that saves waiting.

    A worker that reaches the lower bound, with none ahead of it, is granted r more clocks: r, from
    0 to upper - lower, is where its next pushes come closest in time to a push of the slowest
    worker, both predicted from the intervals of their last two (see `extra_clocks`). When they are
    used up it waits until the slowest is back within the lower bound; what is left of a grant by
    then is void. Of several slowest workers the one counts whose push is predicted last. Merging is
    on arrival.

    Args:
        lower: s_L, the bound everybody has (clocks).
        upper: s_U, the bound that is never passed (clocks).

    Raises:
        ValueError: if `lower` is negative, or `upper` less than `lower`.

    Example:
        >>> DSSP(lower=1, upper=8).guaranteed_bound
        8

    Reference:
        Zhao, An, Liu, Chen 2019, "Dynamic stale synchronous parallel distributed training for deep
        learning", arXiv:1908.11848. Its Algorithm 1 asks its controller again when a grant is used
        up, by which the upper bound could be passed; lets r + 1 clocks pass for a grant of r, where
        the controller's prediction is about r; and never voids what is left of one.
    """

    lower: int = 1
    upper: int = 7
    _pushes: dict[int, deque[float]] = remembered(dict)  # by worker, its last two (seconds)
    _granted: dict[int, int] = remembered(dict)  # by worker, the first clock that is not

    def __post_init__(self) -> None:
        put(self, "lower", integer, least=0)
        put(self, "upper", integer, least=0)
        if self.upper < self.lower:
            raise ValueError(
                f"`DSSP(upper=...)` must be at least `lower`, which is {self.lower}, got "
                f"{self.upper}."
            )
        if self.upper > self.lower + MOST_EXTRA:
            raise ValueError(
                f"`DSSP(upper=...)` must be at most {MOST_EXTRA} more than `lower`, which is "
                f"{self.lower}, got {self.upper}; without an upper bound it is `ASP()`."
            )

    @property
    def guaranteed_bound(self) -> int:
        return self.upper

    def pushed(self, view: View, delta: Delta, norm: float) -> None:
        self._pushes.setdefault(delta.worker, deque(maxlen=2)).append(view.now)

    def admit(self, view: View, worker: int) -> bool | Wait:
        clock = view.clock(worker)
        if view.coverage >= clock - self.lower:
            self._granted.pop(worker, None)
            return True
        if worker not in self._granted:
            self._granted[worker] = clock + self._extra(view, worker)
        within = clock < self._granted[worker] and view.coverage >= clock - self.upper
        return within or Wait(coverage=clock - self.lower)

    def _extra(self, view: View, worker: int) -> int:
        """How many clocks beyond the lower bound to grant to this worker."""
        if view.clock(worker) < max(map(view.clock, view.workers)):
            return 0
        slowest = [
            other
            for other in view.workers
            if other != worker and view.clock(other) == view.min_clock
        ]
        pushes = [tuple(self._pushes.get(each, ())) for each in (worker, *slowest)]
        if not slowest or any(len(times) < 2 for times in pushes):
            return 0  # nothing to predict from
        (last, interval), *others = [(times[-1], times[-1] - times[0]) for times in pushes]
        slow = max(others, key=sum)  # whose next push is the last
        return extra_clocks(last, interval, *slow, most=self.upper - self.lower)


def extra_clocks(last: float, interval: float, slow: float, slow_interval: float, most: int) -> int:
    """After how many more clocks a worker's push comes closest to one of the slowest worker.

    Args:
        last, interval: time of its last push, and between its last two (seconds).
        slow, slow_interval: the same of the slowest worker.
        most: the largest answer.

    Returns:
        The r in 0..most that minimises |last + r interval - (slow + k slow_interval)| over r and k
        in 1..most + 1; the smallest of several.

    Example:
        >>> extra_clocks(last=3.0, interval=1.0, slow=0.0, slow_interval=5.0, most=4)
        2
    """
    theirs = [slow + k * slow_interval for k in range(1, most + 2)]
    waits = [min(abs(last + r * interval - time) for time in theirs) for r in range(most + 1)]
    return min(range(most + 1), key=waits.__getitem__)
