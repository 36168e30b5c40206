"""What a worker hands over with a finished clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.events import DeltaReady


class Push(NamedTuple):
    """What a worker hands over with its `DeltaReady`.

    Attributes:
        version: the version the worker holds, which is what the delta is measured from.
        payload: the delta as it travels, one message on each of the server's devices.
        metrics: the clock's metrics as host floats.
        steps: local steps that were made.
        samples: examples in their batches.
        finite: whether every number of the delta is finite, before it is compressed.
        norm: the delta's l2 norm, if the policy needs it; else 0.
        base: what the delta is measured from, in pieces as the server's devices have it, if a
            transform asks for it.
    """

    version: int
    payload: list[Any]
    metrics: Mapping[str, float]
    steps: int
    samples: int
    finite: bool = True
    norm: float = 0.0
    base: list[Any] | None = None

    def event(self, start: StartClock) -> DeltaReady:
        """What is reported with it."""
        return start.finished(
            version=self.version,
            steps=self.steps,
            samples=self.samples,
            finite=self.finite,
            norm=self.norm,
        )
