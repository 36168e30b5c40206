"""What a tape says of each settled clock, as one table."""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_ssp.controller.commands import Cancel, Drop, Fence, Merge, StartClock
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.controller.tape import Tape

SCHEDULE_DTYPE = np.dtype(
    [
        ("worker", np.int32),
        ("clock", np.int32),
        ("steps", np.int32),
        ("start", np.float64),
        ("finish", np.float64),
        ("base_version", np.int32),
        ("merge_version", np.int32),
        ("staleness", np.int32),
        ("lag", np.int32),
        ("weight", np.float64),
        ("samples", np.int64),
        ("finite", np.bool_),
    ]
)


def schedule(tape: Tape) -> np.ndarray:
    """One row a settled clock, in the order in which they were merged, dropped or cancelled.

    Args:
        tape: of a run.

    Returns:
        A structured array with columns `worker, clock, steps` (made; 0: cancelled), `start, finish`
        (seconds), `base_version, merge_version` (-1: dropped or cancelled), `staleness` (versions),
        `lag` (clocks), `weight, samples, finite` (whether every number of the delta was).
    """
    rows: list[tuple[Any, ...]] = []
    running: dict[Token, tuple[float, StartClock]] = {}
    pushed: dict[Token, tuple[float, float, DeltaReady]] = {}

    def settle(token: Token, version: int, staleness: int, lag: int, weight: float) -> None:
        start, finish, push = pushed.pop(token)
        about = push.worker, push.clock, push.steps, start, finish, push.version, version
        rows.append((*about, staleness, lag, weight, push.samples, push.finite))

    for now, event, commands in tape:
        if isinstance(event, DeltaReady) and not any(type(c) is Fence for c in commands):
            pushed[event.token] = (running.pop(event.token)[0], now, event)
        for command in commands:
            if isinstance(command, StartClock):
                running[command.token] = (now, command)
            elif isinstance(command, Cancel):
                start, clock = running.pop(command.token)
                pushed[command.token] = (start, now, clock.finished(steps=0))
                settle(command.token, -1, 0, 0, 0.0)
            elif isinstance(command, Merge):
                for delta in command.deltas:
                    about = delta.staleness, delta.lag, delta.weight
                    settle(delta.token, command.version, *about)
            elif isinstance(command, Drop):
                settle(command.token, -1, 0, 0, 0.0)
    return np.array(rows, dtype=SCHEDULE_DTYPE)
