"""What a run waits for, and for how long before that looks like a hang."""

from __future__ import annotations

import math
from typing import NamedTuple

QUIET_SECONDS = 8.0  # after which something that should be quick looks like a hang
COMPUTING_SECONDS = 60.0  # the same for a clock, of which nobody knows how long it takes


class Waiting(NamedTuple):
    """What a run waits for: somebody, what they are doing, and since when.

    Attributes:
        worker: who; None if it is no worker, but an observer or an evaluation.
        doing: what, to be read after a name: "computes clock 3".
        seconds: of real time for which that has gone on.
        limit: seconds that this may take before it looks like a hang; infinity for what takes
            as long as it takes, such as compilation and evaluation.

    Example:
        >>> str(Waiting(2, "waits for batch 3 of its data", 9.2, 8.0))
        'worker 2 waits for batch 3 of its data (9 s)'
    """

    worker: int | None
    doing: str
    seconds: float
    limit: float = math.inf

    def __str__(self) -> str:
        who = "" if self.worker is None else f"worker {self.worker} "
        return f"{who}{self.doing} ({self.seconds:.0f} s)"


def for_data(worker: int, waiting: tuple[int, float] | None) -> Waiting | None:
    """That a worker waits for a batch, given which and for how long (seconds); None if it is not.

    Example:
        >>> str(for_data(2, (3, 9.2)))
        'worker 2 waits for batch 3 of its data (9 s)'
    """
    if waiting is None:
        return None
    batch, seconds = waiting
    return Waiting(worker, f"waits for batch {batch} of its data", seconds, QUIET_SECONDS)


def no_data(worker: int, clock: int) -> ValueError:
    """That a worker has no batch for a clock that it is to run, though it had one before."""
    return ValueError(
        f"`data(worker={worker})` has ended before clock {clock}, which is to be run; it must give "
        "a worker the same batches each time."
    )
