"""The delays of a run's workers, drawn from their models."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_ssp.checks import number, shown
from jax_ssp.controller.commands import StartClock
from jax_ssp.delays.base import LONGEST, DelayModel, draws_ahead


class DelayDraws:
    """Delays of the workers of a run, each from a random stream of its own.

    Args:
        delay: the model.
        seed: of the streams.
        num_workers: so many streams.
    """

    BLOCK = 32  # delays drawn at once, where the model can

    def __init__(self, delay: DelayModel, seed: int, num_workers: int) -> None:
        self._delay = delay
        self._seed = seed
        self._streams: list[np.random.Generator | None] = [None] * num_workers  # made when used
        # Packed: as objects, those of many workers would be in no cache.
        self._ready: list[Sequence[float]] = [()] * num_workers
        self._draws_ahead = draws_ahead(delay)

    def draw(self, start: StartClock) -> float:
        """How long this clock takes (seconds).

        Raises:
            ValueError: if the delay model gives something negative or not finite.
        """
        worker, steps = start.worker, start.local_steps
        if steps == 1 and self._draws_ahead:
            ready: Any = self._ready[worker] or self._draw_ahead(worker, start.clock)
            if ready:
                return ready.pop()
        stream = self._streams[worker] or self._stream(worker)
        seconds = self._delay(worker, start.clock, steps, stream)
        if type(seconds) is float and 0 <= seconds <= LONGEST:
            return seconds
        return self._checked(seconds, worker, start.clock)

    def _draw_ahead(self, worker: int, clock: int) -> Sequence[float]:
        """What a worker's next clocks take, the last one first; none where that is not known."""
        stream = self._streams[worker] or self._stream(worker)
        drawn = self._delay.ahead(worker, self.BLOCK, stream)
        if drawn is None:
            return ()
        ready = array("d", [self._checked(each, worker, clock) for each in reversed(drawn)])
        self._ready[worker] = ready
        return ready

    def _stream(self, worker: int) -> np.random.Generator:
        """The stream of this worker, which is that of `np.random.default_rng([seed, worker])`."""
        seeds = np.random.SeedSequence([self._seed, worker])
        stream = self._streams[worker] = np.random.Generator(np.random.PCG64(seeds))
        return stream

    def _checked(self, seconds: Any, worker: int, clock: int) -> float:
        if type(seconds) is float and 0 <= seconds <= LONGEST:
            return seconds
        field = f"delay(worker={worker}, clock={clock}, ...) of {shown(self._delay)}"
        return float(number(field, seconds, least=0, most=LONGEST))
