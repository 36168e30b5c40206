"""A data ledger is told what happens in a run, in the order of its tape.

Who is given which batches follows from that alone: a run, its replay and the run that goes on with
it deal the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from jax_ssp.controller.commands import (
    Cancel,
    Command,
    Drop,
    Merge,
    StartAhead,
    StartClock,
    is_fenced,
)
from jax_ssp.controller.events import DeltaReady, Event, WorkerDone, WorkerJoined, WorkerLost
from jax_ssp.controller.rows import Fold
from jax_ssp.controller.tape import Tape
from jax_ssp.data.elastic import is_elastic
from jax_ssp.data.ledger import Ledger
from jax_ssp.data.report import DataReport
from jax_ssp.data.settled import Epoch

Dealing: TypeAlias = Callable[[Event, Sequence[Command]], None]
"""Is told an event and its commands, before these are carried out."""


def header_of(data: Any) -> dict[str, Any]:
    """For the header of a tape, how large an epoch is of data that is dealt.

    Example:
        >>> header_of(lambda worker: [1.0])
        {}
    """
    names = ("batches_per_epoch", "samples_per_epoch")
    return {"data": {name: getattr(data, name) for name in names}} if is_elastic(data) else {}


def dealing(ledger: Ledger | None, header: Mapping[str, Any]) -> Dealing | None:
    """What is to be told each row of a run's tape, from the first one on; None if no data is dealt.

    Args:
        ledger: of the run.
        header: of its tape, which says how many workers it was begun with.
    """
    if ledger is None:
        return None
    ledger.begin(header["num_workers"])
    return partial(tell, ledger)


def tell(ledger: Ledger, event: Event, commands: Sequence[Command]) -> None:
    """Tell a ledger of a row of the tape, before its commands are carried out."""
    if type(event) is DeltaReady:
        ledger.pushed(event.worker, event.token)
    elif type(event) is WorkerJoined:
        ledger.joined(event.worker)
    elif type(event) is WorkerLost or (type(event) is WorkerDone and not is_fenced(commands)):
        ledger.left(event.worker)
    for command in commands:
        kind = type(command)
        if kind is StartClock:
            ledger.started(command.worker, command.token, command.local_steps)
        elif kind is Merge:
            for delta in command.deltas:
                ledger.merged(delta.token)
        elif kind is StartAhead:
            ledger.granted_ahead(command.worker, command.local_steps)
        elif kind is Drop:
            ledger.dropped(command.token)
        elif kind is Cancel:
            ledger.cancelled(command.worker, command.token)


def ledger_of(header: Mapping[str, Any]) -> Ledger | None:
    """The ledger of a run at its start, by the header of its tape; None if no data is dealt."""
    data = header.get("data")
    return None if data is None else Ledger(data["batches_per_epoch"], header["num_workers"])


def report_of(tape: Tape) -> DataReport:
    """What became of a run's samples, by its tape alone.

    Example:
        >>> import jax_ssp as ssp
        >>> report_of(ssp.train(runtime=ssp.Virtual(2, compute=False), num_clocks=3).tape)
        DataReport(merged=0, dropped=0, seen=None, whole=None, epochs=None)
    """
    ledger, fold = ledger_of(tape.header), Fold()
    merged = dropped = 0  # samples
    in_step = tape.header.get("round_samples", 0) // tape.header.get("num_workers", 1)
    for now, event, commands in tape:
        if ledger is not None:
            tell(ledger, event, commands)
        elif cancels := [each for each in commands if type(each) is Cancel]:
            running = fold.running
            dropped += in_step * sum(running[each.worker].local_steps for each in cancels)
        for row in fold.take(now, event, commands):
            if row.merge_version < 0:
                dropped += row.samples
            else:
                merged += row.samples
    if ledger is None:
        return DataReport(merged, dropped)
    data = tape.header["data"]
    epochs, whole = ledger.settled.rows(_samples(data)), ledger.settled.whole
    seen = whole * data["samples_per_epoch"] + sum(each.seen for each in epochs)
    return DataReport(merged, sum(each.dropped for each in epochs), seen, whole, tuple(epochs))


def left_out(tape: Tape) -> list[Epoch]:
    """The epochs of which samples would be missing, had the run gone on until all of them are over.

    A run that is told to end leaves some under way, and others to those who had still to take them:
    nothing of that is lost. What is found here is, and there should be nothing.

    Args:
        tape: of a run whose data is dealt; not necessarily complete.

    Raises:
        ValueError: if the data is not dealt, so that nobody knows.
    """
    ledger = ledger_of(tape.header)
    if ledger is None:
        raise ValueError(
            "of this run nobody knows which samples are left out: its data is each worker's own. "
            "Give `data=ssp.data.Epochs(...)`, which is dealt to them."
        )
    for _, event, commands in tape:
        tell(ledger, event, commands)
    ledger.run_out()
    return [each for each in ledger.settled.rows(_samples(tape.header["data"])) if each.never]


def _samples(data: Mapping[str, int]) -> int:
    """In a batch."""
    return data["samples_per_epoch"] // data["batches_per_epoch"]
