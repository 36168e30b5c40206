"""The delays of a run's workers, drawn from their models."""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_ssp.checks import number, shown
from jax_ssp.controller.commands import StartClock
from jax_ssp.delays.base import LONGEST, DelayModel


class DelayDraws:
    """Delays of the workers of a run, each from a random stream of its own."""

    BLOCK = 32  # delays drawn at once, where the model can

    def __init__(self, delay: DelayModel, seed: int, num_workers: int) -> None:
        self._delay = delay
        self._streams = [np.random.default_rng([seed, worker]) for worker in range(num_workers)]
        self._ready: list[list[float]] = [[] for _ in self._streams]
        # A subclass that changes what a clock takes has to say anew how to draw ahead.
        self._draws_ahead = {"ahead", "__call__"} <= vars(type(delay)).keys()

    def draw(self, start: StartClock) -> float:
        """How long this clock takes (seconds).

        Raises:
            ValueError: if the delay model gives something negative or not finite.
        """
        worker, clock, steps = start.worker, start.clock, start.local_steps
        if steps == 1 and self._draws_ahead:
            ready = self._ready[worker]
            if ready:
                return ready.pop()
            drawn = self._delay.ahead(self._streams[worker], self.BLOCK)
            ready += [self._checked(seconds, worker, clock) for seconds in reversed(drawn)]
            return ready.pop()
        seconds = self._delay(worker, clock, steps, self._streams[worker])
        return self._checked(seconds, worker, clock)

    def _checked(self, seconds: Any, worker: int, clock: int) -> float:
        if type(seconds) is float and 0 <= seconds <= LONGEST:
            return seconds
        field = f"delay(worker={worker}, clock={clock}, ...) of {shown(self._delay)}"
        return float(number(field, seconds, least=0, most=LONGEST))
