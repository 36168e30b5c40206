"""A checkpoint that was loaded just now is under suspicion: it may be whole, and yet be bad.

It may hold what was about to become not finite. So a run that diverges, by deltas that are not
finite from within a few clocks of a load on, makes the checkpoint a suspect, and goes one further
back. If it comes to the same from there, the data or the step is to blame (see
`FolderKeeper.spoiled`). A delta now and then that is not finite is kept out, as it is anywhere.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jax_ssp.checkpoint.claim import SUMMARY, TAPE
from jax_ssp.controller.commands import Command, is_fenced
from jax_ssp.controller.events import DeltaReady, Event, Resumed, StopRequested
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.tape_file import read_tape, write_tape
from jax_ssp.files import write_json
from jax_ssp.records import read_record
from jax_ssp.runtimes.cut import SpoiledCheckpoint
from jax_ssp.runtimes.ending import DIVERGED, status_of
from jax_ssp.runtimes.observer import Observer

CLOCKS = 3  # of each worker, after a load


class Suspicion(Observer):
    """Watches what the first clocks come to after a run has gone on from a checkpoint.

    Args:
        term: that this process begins. Those before it are on the tape, and happen again first.

    Attributes:
        rows: of the checkpoint; 0 if the run begins again since all are suspects, None if it goes
            on from none.
        began: whether the term has begun.
    """

    def __init__(self, term: int) -> None:
        self.rows: int | None = None
        self.began = False
        self._term = term
        self._pushes: Counter[int] = Counter()  # by worker
        self._first: dict[int, int] = {}  # the number of the first of those not finite in a row
        self._bad: DeltaReady | None = None  # the last that was not finite

    def on_entry(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, Resumed):
            self.began = event.term == self._term
        elif not self.began or self.rows is None:
            return
        elif isinstance(event, DeltaReady) and not is_fenced(commands):
            self._pushes[event.worker] += 1
            if event.finite:
                self._first.pop(event.worker, None)
            else:
                self._first.setdefault(event.worker, self._pushes[event.worker])
                self._bad = event
        elif isinstance(event, StopRequested) and status_of(event.reason) == DIVERGED:
            bad = self._bad
            if bad is not None and self._first.get(bad.worker, CLOCKS + 1) <= CLOCKS:
                raise SpoiledCheckpoint(
                    f"the run diverges: the delta of worker {bad.worker}'s clock {bad.clock} is "
                    f"not finite, as they are from within {CLOCKS} clocks of the load of a "
                    "checkpoint on."
                )


def take_off_last_term(folder: Path) -> dict[str, Any]:
    """Take the last term off the tape of a run: it has come of a bad checkpoint.

    Returns:
        What the summary is to say of the tape from now on, which it does if there is one.
    """
    tape = read_tape(folder / TAPE)
    terms = [row for row, entry in enumerate(tape) if isinstance(entry.event, Resumed)]
    before = Tape(tape.header)
    for entry in islice(tape, terms[-1] if terms else None):
        before.append(*entry)
    write_tape(folder / TAPE, before)
    told = {"rows": len(before), "complete": False}
    with contextlib.suppress(OSError, ValueError):
        summary = read_record(folder / SUMMARY, {})
        write_json(folder / SUMMARY, {**summary, "tape": told})
    return told
