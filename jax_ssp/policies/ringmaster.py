"""Ringmaster ASGD: asynchronous, but deltas delayed too long are dropped, or never finished."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import flag, integer, put
from jax_ssp.policies.base import Policy, remembered
from jax_ssp.policies.decision import Decision
from jax_ssp.policies.view import View


@dataclass(frozen=True)
class Ringmaster(Policy):
    """Merge on arrival what is less than `max_delay` versions old; drop the rest.

    Args:
        max_delay: R (versions). The source's theory has it grow with the noise of the gradients
            over the accuracy wanted; R = 1 lets one delta a version through, without R is `ASP()`.
        stops: whether a clock whose version becomes R versions old is cancelled at once, and its
            worker starts anew (Algorithm 5 of the source), rather than dropped when it ends (4).

    Raises:
        ValueError: if `max_delay` is less than 1.

    Example:
        >>> Ringmaster(max_delay=8).guaranteed_staleness(num_workers=1000)
        7

    Reference:
        Maranjyan, Tyurin, Richtarik 2025, "Ringmaster ASGD: the first asynchronous SGD with optimal
        time complexity", arXiv:2501.16168.
    """

    max_delay: int = 16
    stops: bool = False
    # By version: who was let start on it, to be looked at once, when it is too old.
    _started: dict[int, list[int]] = remembered(dict)

    def __post_init__(self) -> None:
        put(self, "max_delay", integer, least=1)
        put(self, "stops", flag)

    def guaranteed_staleness(self, num_workers: int) -> int:
        return self.max_delay - 1

    @property
    def cancels(self) -> bool:
        return self.stops

    def admit(self, view: View, worker: int) -> bool:
        if self.stops:
            self._started.setdefault(view.version, []).append(worker)
        return True

    def ready(self, view: View) -> Decision:
        delta = next(iter(view.buffered))
        if view.staleness(delta) >= self.max_delay:
            return Decision(drop=[delta], reason=f"{self.max_delay} versions old, or more")
        return Decision(
            merge=[delta],
            cancel=self._outdated(view, by=view.version + 1) if self.stops else (),
            reason=f"{self.max_delay} versions old",
        )

    def _outdated(self, view: View, by: int) -> list[int]:
        """Who runs on the version that is too old by then; the older ones are cancelled already."""
        version = by - self.max_delay
        return [
            worker
            for worker in dict.fromkeys(self._started.pop(version, ()))
            if worker in view.workers
            and view.is_running(worker)
            and view.held_version(worker) == version
        ]
