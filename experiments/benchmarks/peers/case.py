"""What is measured: a model, workers, local steps and the sleeps of stragglers; and how.

A system is a function of sleeps: for each worker and step the seconds that its step is late. So
many workers make so many steps each, and the function says how many worker-steps a second that was.
All systems of a case are given the same sleeps, and take turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from experiments.benchmarks.common import alternating, median_ratio
from experiments.benchmarks.overhead import SIZES, Size

if TYPE_CHECKING:
    import numpy as np

Sleeps: TypeAlias = "np.ndarray"  # seconds, of shape (workers, steps)
System: TypeAlias = Callable[[Sleeps], float]  # worker-steps a second

COLUMNS = (
    *("model", "batch", "workers", "local_steps", "stragglers", "system", "ratio_to_bound"),
    "steps_per_second",
)
BOUND = "bound"  # the system of each stack that exchanges nothing
ROUNDS = 5
SECONDS = 0.4  # that the bound takes in one measurement, about
STRAGGLING_SECONDS = 1.0  # the same where workers straggle
STRAGGLE = 10e-3  # mean seconds of a sleep


class Case(NamedTuple):
    """Some workers that train a model.

    Attributes:
        size: of the model.
        workers: how many.
        local_steps: between two exchanges, for who can do that.
        sleep: mean seconds that a step is late, exponential; 0 if nobody straggles.
    """

    size: Size
    workers: int
    local_steps: int = 1
    sleep: float = 0.0

    @property
    def stragglers(self) -> str:
        """Who straggles, in words."""
        return f"{1e3 * self.sleep:g} ms" if self.sleep else "none"

    def sleeps(self, steps: int, seed: int) -> Sleeps:
        """How late each worker is with each step; the same for all systems."""
        import numpy as np

        shape = self.workers, steps
        if not self.sleep:
            return np.zeros(shape)
        return np.random.default_rng(seed).exponential(self.sleep, shape)

    def steps(self, rate: float, quick: bool) -> int:
        """How many steps of each worker one measurement has.

        Args:
            rate: steps a second of one worker, without sleeps.
            quick: whether to take few.
        """
        seconds = STRAGGLING_SECONDS if self.sleep else SECONDS
        clock = self.local_steps * (1 / rate + self.sleep)
        return self.local_steps * max(2, round(seconds / (4 if quick else 1) / clock))


def cases(size: int, workers: int, quick: bool) -> Iterator[Case]:
    """What is measured of a model (of `SIZES`) with so many workers."""
    model = SIZES[size]
    for local_steps in (1, 16):
        if not (model.width >= 1024 and workers > 2):  # rounds of which take minutes
            yield Case(model, workers, local_steps)
        if size == 1 and not (quick and local_steps > 1):
            yield Case(model, workers, local_steps, STRAGGLE)


def pause(seconds: float) -> None:
    """Be late."""
    if seconds:
        time.sleep(seconds)


def rounds_of(sleeps: Sleeps, local_steps: int) -> Sleeps:
    """How late the slowest worker is with each round of local steps: of shape (rounds,)."""
    workers, steps = sleeps.shape
    return sleeps.reshape(workers, steps // local_steps, local_steps).sum(axis=2).max(axis=0)


def rows(case: Case, systems: Mapping[str, System], quick: bool) -> list[dict[str, Any]]:
    """Measure the systems of a case, one after the other in each round."""
    import numpy as np

    still = np.zeros((case.workers, 2 * case.local_steps))
    for system in systems.values():  # compiles what is compiled
        system(still)
    steps = case.steps(systems[BOUND](still) / case.workers, quick)
    taken: dict[str, list[float]] = {name: [] for name in systems}
    for seed in range(3 if quick else ROUNDS):
        sleeps = case.sleeps(steps, seed)
        measures = {name: partial(system, sleeps) for name, system in systems.items()}
        for name, rates in alternating(measures, 1).items():
            taken[name] += rates
    about = case.size.name, case.size.batch, case.workers, case.local_steps, case.stragglers
    found = []
    for name, rates in taken.items():
        figures = median_ratio(rates, taken[BOUND]), statistics.median(rates)
        found.append(dict(zip(COLUMNS, (*about, name, *figures), strict=True)))
        print(*found[-1].values(), sep="\t", file=sys.stderr, flush=True)
    return found
