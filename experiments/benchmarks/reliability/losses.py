"""When workers of a run are lost and back: written down by the run, and told from one another."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax_ssp as ssp
from jax_ssp.controller import DeltaReady, WorkerLost
from jax_ssp.controller.commands import Command, is_fenced
from jax_ssp.controller.events import Event

STOP = "JAX_SSP_BENCHMARK_STOP"
"""The variable that names the file which ends the run; beside it are its losses."""


class Watches(ssp.Observer):
    """Ends the run once a file is there; writes down losses, and the clocks that follow them."""

    def on_start(self, info: dict[str, Any]) -> None:
        self._stop = Path(os.environ[STOP])
        self._lost: set[int] = set()

    def on_version(self, version: ssp.Version) -> None:
        if self._stop.exists():
            self.stop("the benchmark is over")

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, WorkerLost):
            self._lost.add(event.worker)
        elif (
            isinstance(event, DeltaReady) and event.worker in self._lost and not is_fenced(commands)
        ):
            self._lost.discard(event.worker)
        else:
            return
        with self._stop.with_name("losses").open("a") as file:
            row = type(event) is WorkerLost, event.worker, now, time.time()
            print(json.dumps(row), file=file)


class Loss(NamedTuple):
    """A loss of a worker.

    Attributes:
        at: when it was known (seconds since 1970).
        seconds: from then to the next clock that the worker has finished; None if it has not.
    """

    at: float
    seconds: float | None


def losses(file: Path) -> list[Loss]:
    """The losses that are written there, each once, though a run that goes on may repeat it."""
    found: list[Loss] = []
    last: dict[int, tuple[int, float]] = {}  # of each worker: which of these, and when
    lines = file.read_text().splitlines() if file.exists() else []
    seen: set[tuple[bool, int, float]] = set()
    for is_lost, worker, now, at in map(json.loads, lines):
        if (is_lost, worker, now) in seen:
            continue
        seen.add((is_lost, worker, now))
        if is_lost:
            last[worker] = len(found), now
            found.append(Loss(at, None))
        elif worker in last:
            number, then = last.pop(worker)
            found[number] = found[number]._replace(seconds=now - then)
    return found
