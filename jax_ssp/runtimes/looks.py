"""Looks at the threads of a world, for its health."""

from __future__ import annotations

import time

from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.events import DeltaReady, WorkerDone
from jax_ssp.files import say
from jax_ssp.placement import Placement
from jax_ssp.runtimes.crew import COMPILES, TRAVELS, Crew, Stay
from jax_ssp.runtimes.health import TICK, Busy, Health
from jax_ssp.runtimes.recovery import HANG


class Looks:
    """Looks at a crew now and then.

    Args:
        crew: of the world.
        deadline: how long a clock may take (seconds); None to go by what was seen.

    Attributes:
        tick: between two looks, if nothing holds them up (seconds).
    """

    def __init__(self, crew: Crew, deadline: float | None) -> None:
        self.tick = TICK if deadline is None else min(TICK, deadline / 4)
        self._crew = crew
        self._health = Health(deadline, self.tick)
        self._next = 0.0

    def finished(self, stay: Stay, event: DeltaReady | WorkerDone) -> None:
        """A clock of a worker has come to its end; how long it took is worth knowing."""
        if stay.began is not None and isinstance(event, DeltaReady):
            self._health.finished(time.perf_counter() - stay.began, event.steps)

    def look(self, excused: bool) -> tuple[Stay, StartClock] | None:
        """Who hangs, and in which clock; None if nobody does, or it is not time to look."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + self.tick
        here = {stay.index: stay for stay in self._crew.stays if stay.joined and not stay.gone}
        running = {index: stay.runs for index, stay in here.items()}
        busy: dict[int, Busy] = {}
        for index, start in running.items():
            if start is not None:
                doing = here[index].doing
                counts = doing is None or doing[0] not in (COMPILES, TRAVELS)
                busy[index] = Busy(start.token, start.local_steps, counts)
        hangs, all_since = self._health.look(now, busy, len(here), excused)
        if all_since is not None:
            say(
                f"no worker has made progress for {all_since:.0f} s, so it may be the machine; "
                "they are given twice as long."
            )
        start = None if hangs is None else running[hangs]
        return None if hangs is None or start is None else (here[hangs], start)


def told_of(stay: Stay) -> tuple[str, bool]:
    """Why a worker that hangs is lost, and whether it may come again.

    A thread that is stuck in a program of an accelerator may hold that up for ever: the worker does
    not come again. Others that share the device hang too, if so. The cores of the host are there
    for others still, and who waits for data uses none.
    """
    worker, waits = stay.worker, stay.waits()
    reason = f"{HANG}: it {'hangs' if waits is None else waits.doing}"
    if worker is None or worker.waits() is not None or Placement.of(worker.device).on_host:
        return reason, True
    return f"{reason}; its device may hang too, so it does not come again", False
