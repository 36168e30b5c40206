"""How long clocks take, and how often who runs them fails: what the tables of scale assume.

All of these are assumptions; those of a table are in its file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

DAY = 86_400.0  # seconds
CHUNK = 4096  # draws at a time
MOST_BUSY = 0.7  # share of the time that a controller or a shard is to be busy for, at the most


class Clocks(NamedTuple):
    """How long a clock takes.

    Attributes:
        seconds: in the mean, without stalls.
        spread: the standard deviation of the logarithm of a clock's seconds, drawn anew each clock.
        stalls: the share of clocks in which a worker stands still for a while.
        stall: for how long it does (seconds).
    """

    seconds: float
    spread: float = 0.0
    stalls: float = 0.0
    stall: float = 0.0

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """So many clocks of one worker each (seconds)."""
        taken = self.seconds * rng.lognormal(-(self.spread**2) / 2, self.spread, count)
        return taken + self.stall * (rng.random(count) < self.stalls) if self.stalls else taken

    def slowest(self, rng: np.random.Generator, count: int, among: int) -> np.ndarray:
        """So many clocks, each as long as the longest of `among` workers (seconds)."""
        taken = self._largest(rng, np.full(count, among))
        if not self.stalls:
            return taken
        stalled = rng.binomial(among, self.stalls, count)
        longest = self._largest(rng, np.maximum(stalled, 1)) + self.stall
        return np.where(stalled > 0, np.maximum(taken, longest), taken)

    def _largest(self, rng: np.random.Generator, among: np.ndarray) -> np.ndarray:
        """The longest of so many that do not stall (seconds).

        The largest of n uniform draws is distributed as the n-th root of one.
        """
        taken = np.full(len(among), self.seconds)
        if self.spread:
            largest = ndtri(rng.random(len(among)) ** (1 / among))
            taken *= np.exp(self.spread * largest - self.spread**2 / 2)
        return taken

    def stream(self, rng: np.random.Generator) -> Iterator[float]:
        """Clocks without end (seconds)."""
        while True:
            yield from self.draw(rng, CHUNK).tolist()


class Failing(NamedTuple):
    """How workers fail, and what a failure takes.

    Attributes:
        mtbf: mean time between failures of one worker (seconds).
        detect: until a failure is noticed (seconds).
        back: from then on, until a worker is there in its place (seconds).
        pause: of one program over many workers, to go on with one less or one more (seconds).
        restart: of a program, its compiled programs and the newest checkpoint loaded (seconds).
        stall: for which a save holds up who trains (seconds).
    """

    mtbf: float
    detect: float = 0.0
    back: float = 0.0
    pause: float = 0.0
    restart: float = 0.0
    stall: float = 0.0

    @property
    def pauses(self) -> float:
        """What a failure takes of one program that goes on without who failed, and then with it."""
        return self.detect + 2 * self.pause

    def among(self, workers: int) -> float:
        """Mean time between failures of any of so many (seconds)."""
        return self.mtbf / workers

    def of_chips(self, chips: int) -> Failing:
        """Of a worker of so many chips, where `mtbf` is that of one."""
        return self._replace(mtbf=self.mtbf / chips)


def facts(**assumed: Any) -> dict[str, Any]:
    """Assumptions for a table's file."""
    return {
        name: value._asdict() if hasattr(value, "_asdict") else value
        for name, value in assumed.items()
    }
