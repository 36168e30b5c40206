"""Probabilistic synchronous parallel: wait for a few workers drawn at random, not for all."""

from __future__ import annotations

import random
from dataclasses import dataclass

from jax_ssp.checks import integer, put, seed
from jax_ssp.policies.base import Policy, remembered
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class PSP(Policy):
    """Admit a worker to clock c once a random sample of the others has finished c - bound clocks.

    The sample is drawn once for each worker and clock, from the live workers of that moment; nobody
    has to know the clocks of all. With no sample it is `ASP()`, with everybody in it `SSP(bound)`;
    between them the bound holds with a probability only.

    Args:
        sample: workers drawn.
        bound: the s that is asked of those (clocks).
        seed: of the draws: each is of `random.Random(f"{seed}, {worker}, {clock}")`.

    Raises:
        ValueError: if one of them is negative.

    Example:
        >>> PSP(sample=2).guaranteed_bound is None
        True

    Reference:
        Wang, Catterall, Mortier 2017, "Probabilistic synchronous parallel", arXiv:1709.07772.
    """

    sample: int = 2
    bound: int = 3
    seed: int = 0
    _drawn: dict[int, tuple[int, list[int]]] = remembered(dict)  # by worker: clock, sample

    def __post_init__(self) -> None:
        put(self, "sample", integer, least=0)
        put(self, "bound", integer, least=0)
        put(self, "seed", seed)

    def admit(self, view: View, worker: int) -> bool:
        needed = view.clock(worker) - self.bound
        if needed <= view.min_clock:
            return True  # whoever is drawn has finished as many
        return all(
            view.clock(other) >= needed
            for other in self._sampled(view, worker)
            if other in view.workers
        )

    def _sampled(self, view: View, worker: int) -> list[int]:
        clock = view.clock(worker)
        if self._drawn.get(worker, (-1, []))[0] != clock:
            others = [other for other in view.workers if other != worker]
            rng = random.Random(f"{self.seed}, {worker}, {clock}")
            self._drawn[worker] = clock, rng.sample(others, min(self.sample, len(others)))
        return self._drawn[worker][1]
