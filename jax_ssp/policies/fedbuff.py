"""FedBuff: buffered asynchronous aggregation."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import integer, put
from jax_ssp.policies.base import Policy
from jax_ssp.policies.decision import Decision
from jax_ssp.policies.rules import merge_first
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class FedBuff(Policy):
    """Merge the buffer as one version whenever it is full; nobody waits.

    The source weighs each delta by its staleness and averages the buffer: with
    `delta_tx=scale_by_staleness(exponent=0.5, shape="polynomial")` and `weight="merged"`. Its
    clients make several local steps.

    Args:
        size: of the buffer (deltas).

    Raises:
        ValueError: if `size` is less than 1.

    Example:
        >>> FedBuff().size
        10

    Reference:
        Nguyen, Malik, Zhan et al. 2022, "Federated learning with buffered asynchronous
        aggregation", arXiv:2106.06639 (which finds that K = 10 works well).
    """

    size: int = 10

    def __post_init__(self) -> None:
        put(self, "size", integer, least=1)

    @property
    def reads_own(self) -> bool:
        return False

    def usual_merge(self, num_workers: int) -> int:
        return self.size

    def ready(self, view: View) -> Decision:
        return merge_first(view, self.size)
