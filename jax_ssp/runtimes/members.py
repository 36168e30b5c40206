"""Who is to be there in a run that goes on, which may be others than there were.

A run is begun by as many workers as its tape's header says. Where it is resumed by fewer, the last
ones are lost, for a reason that is no failure; where it is resumed by more, they join. Both are
rows of the tape after that of the resume, so whoever reads it knows who was there when.
"""

from __future__ import annotations

from typing import TypeGuard

from jax_ssp.controller.events import Event, WorkerJoined, WorkerLost
from jax_ssp.controller.tape import Tape

NOT_RESUMED = "the run goes on without it"


def is_left_out(event: Event) -> TypeGuard[WorkerLost]:
    """Whether a worker is lost only since a run goes on with fewer.

    Example:
        >>> is_left_out(WorkerLost(3, NOT_RESUMED)), is_left_out(WorkerLost(3, "it hung"))
        (True, False)
    """
    return isinstance(event, WorkerLost) and event.reason == NOT_RESUMED


def members(tape: Tape) -> set[int]:
    """The workers that the run was last meant to have, whatever has become of them."""
    found = set(range(tape.header["num_workers"]))
    for _, event, _ in tape:
        if isinstance(event, WorkerJoined):
            found.add(event.worker)
        elif is_left_out(event):
            found.discard(event.worker)
    return found


def ever(tape: Tape) -> int:
    """One more than the largest number of a worker that was ever to be there."""
    joined = (event.worker for _, event, _ in tape if isinstance(event, WorkerJoined))
    return max(tape.header["num_workers"], max(joined, default=0) + 1)
