"""Rennala SGD: a batch of deltas on the newest version, from whomever; older ones are dropped."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy
from jax_ssp.policies.decision import Decision
from jax_ssp.policies.rules import drop_outdated, merge_first
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class Rennala(Policy):
    """Merge a batch of deltas that were computed on the newest version; drop what is older.

    Minibatch SGD, whose batch is computed by whoever is fast enough: a worker that has pushed goes
    on at once, on the newest version (without its own deltas that wait still). Staleness is 0.

    The source averages the batch: that is `weight="merged"`.

    Args:
        batch: deltas of a merge. The source's theory has it grow with the noise of the gradients
            over the accuracy wanted.

    Raises:
        ValueError: if `batch` is less than 1.

    Example:
        >>> Rennala(batch=4).guaranteed_staleness(num_workers=1000)
        0

    Reference:
        Tyurin, Richtarik 2023, "Optimal time complexities of parallel stochastic optimization
        methods under a fixed computation model", arXiv:2305.12387.
    """

    batch: int = 4

    def __post_init__(self) -> None:
        put(self, "batch", integer, least=1)

    def guaranteed_staleness(self, num_workers: int) -> int:
        return 0

    @property
    def reads_own(self) -> bool:
        return False

    @property
    def takes_fragments(self) -> bool:
        return False

    def usual_merge(self, num_workers: int) -> int:
        return self.batch

    def ready(self, view: View) -> Decision:
        return drop_outdated(view) or merge_first(view, self.batch)
