"""The part of a plan that is a worker's own: how it exchanges deltas for snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jax_ssp.controller.weight import Weight
from jax_ssp.server.merging import factors_alone
from jax_ssp.trees import as_float
from jax_ssp.worker.adopt import Adopt, Mix
from jax_ssp.worker.needs import Needs


@dataclass(frozen=True)
class Exchange:
    """What a worker does between its steps.

    Attributes:
        local_steps: the numbers of steps that most clocks have; these are compiled beforehand.
        weight: the run's rule, for the share of statistics in own deltas that are not merged yet.
        needs: what the policy and the server need of it, beside deltas.
        num_clocks: clocks it will run, if that is known; no batch is drawn ahead after the last.
        overlap: local steps to run ahead, where a clock is granted ahead.
        adopt: what then becomes of them.

    Example:
        >>> Exchange(local_steps=(4,), overlap=1).needs.own
        True
    """

    local_steps: tuple[int, ...] = (1,)
    weight: Weight = "mean"
    needs: Needs = Needs()  # noqa: RUF009 (immutable)
    num_clocks: int | None = None
    overlap: int = 0
    adopt: Adopt = "rebase"

    @cached_property
    def alpha(self) -> np.ndarray | None:
        """How much of its own a worker keeps when it adopts with `Mix`; None where it rebases."""
        return as_float(self.adopt.alpha) if isinstance(self.adopt, Mix) else None

    def factors(self, weight: float, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
        """What an own delta is added with, as programs take it: its weight, its statistics' share.

        Args:
            weight: of a delta that is merged alone.
            num_workers: live ones.
        """
        return factors_alone(weight, num_workers, self.weight)
