"""The delays of a run's workers, drawn from their models."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from jax_ssp.checks import number, shown
from jax_ssp.controller.commands import StartClock
from jax_ssp.delays.base import LONGEST, DelayModel, draws_ahead
from jax_ssp.delays.streams import Streams


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
        self._streams = Streams(seed, num_workers)
        # Packed: as objects, those of many workers would be in no cache.
        self._ready: list[Sequence[float]] = [()] * num_workers
        self._draws_ahead = draws_ahead(delay)

    def draw(self, start: StartClock) -> float:
        """How long this clock takes (seconds).

        Raises:
            ValueError: if the delay model gives something negative or not finite.
        """
        worker, clock, steps = start[:3]  # quicker than by name
        if steps == 1 and self._draws_ahead:
            ready: Any = self._ready[worker] or self._draw_ahead(worker, clock)
            if ready:
                return ready.pop()
        seconds = self._delay(worker, clock, steps, self._streams.of(worker))
        if type(seconds) is float and 0 <= seconds <= LONGEST:
            return seconds
        return self._checked(seconds, worker, clock)

    def _draw_ahead(self, worker: int, clock: int) -> Sequence[float]:
        """What a worker's next clocks take, the last one first; none where that is not known."""
        drawn = self._delay.ahead(worker, self.BLOCK, self._streams.of(worker))
        if drawn is None:
            return ()
        if len(drawn) != self.BLOCK:
            raise ValueError(
                f"`ahead(worker={worker}, count={self.BLOCK}, ...)` of {shown(self._delay)} must "
                f"give so many delays, got {len(drawn)}."
            )
        if not _are_seconds(drawn):
            drawn = [self._checked(each, worker, clock) for each in drawn]
        ready = self._ready[worker] = array("d", drawn[::-1])
        return ready

    def _checked(self, seconds: Any, worker: int, clock: int) -> float:
        if type(seconds) is float and 0 <= seconds <= LONGEST:
            return seconds
        field = f"delay(worker={worker}, clock={clock}, ...) of {shown(self._delay)}"
        return float(number(field, seconds, least=0, most=LONGEST))


def _are_seconds(drawn: Sequence[Any]) -> bool:
    """Whether all are floats that a clock may take; a sum with one that is no number is none."""
    return set(map(type, drawn)) == {float} and min(drawn) >= 0 and sum(drawn) <= LONGEST
