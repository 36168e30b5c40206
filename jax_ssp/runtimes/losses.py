"""Whom a run has lost, why, and who came again: read off its tape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax_ssp.controller.commands import Command, StartClock
from jax_ssp.controller.events import Event, WorkerJoined, WorkerLost

_MOST_CLOCKS = 6  # that a sentence names


class Loss(NamedTuple):
    """A worker was lost.

    Attributes:
        worker: who.
        clock: the last that it had begun; -1 if there was none.
        what: why; empty where nobody knows.
        when: seconds of the world.
        back_after: seconds until it joined again; None if it never did.
    """

    worker: int
    clock: int
    what: str
    when: float
    back_after: float | None


def losses(rows: Iterable[tuple[float, Event, Sequence[Command]]]) -> list[Loss]:
    """All of a tape, in their order.

    Example:
        >>> import jax_ssp as ssp
        >>> wrong = [ssp.faults.Crash(1, 2, back_after=1.5)]
        >>> run = ssp.train(runtime=ssp.Virtual(2, compute=False, faults=wrong), num_clocks=9)
        >>> losses(run.tape)[0]
        Loss(worker=1, clock=2, what='an injected fault', when=3.0, back_after=1.5)
    """
    found: list[Loss] = []
    away: dict[int, int] = {}  # by worker, the number of its loss
    clocks: dict[int, int] = {}
    for now, event, commands in rows:
        if isinstance(event, WorkerLost):
            away[event.worker] = len(found)
            clock = clocks.get(event.worker, -1)
            found.append(Loss(event.worker, clock, event.reason, now, None))
        elif isinstance(event, WorkerJoined) and event.worker in away:
            number = away.pop(event.worker)
            found[number] = found[number]._replace(back_after=now - found[number].when)
        for command in commands:
            if isinstance(command, StartClock):
                clocks[command.worker] = command.clock
    return found


def sentences(found: Iterable[Loss], header: Mapping[str, Any]) -> list[str]:
    """What is to be said of losses at the end of a run: one sentence for each worker.

    Args:
        found: all of the run.
        header: of its tape.
    """
    by_worker: dict[int, list[Loss]] = {}
    for loss in found:
        by_worker.setdefault(loss.worker, []).append(loss)
    return [_sentence(worker, by_worker[worker], "data" in header) for worker in sorted(by_worker)]


def _sentence(worker: int, found: Sequence[Loss], is_dealt: bool) -> str:
    times = "once" if len(found) == 1 else f"{len(found)} times"
    clocks = ", ".join(str(loss.clock) for loss in found[:_MOST_CLOCKS])
    more = ", ..." if len(found) > _MOST_CLOCKS else ""
    clocks = f"clock{'s' * (len(found) > 1)} {clocks}{more}"
    why = f" ({found[-1].what})" if found[-1].what else ""
    if found[-1].back_after is not None:
        after = "it came again"
    elif is_dealt:
        after = "it did not come again, and the others have its batches"
    else:
        after = "it did not come again, and its data ended with it"
    return f"worker {worker} was lost {times}, in {clocks}{why}; {after}"
