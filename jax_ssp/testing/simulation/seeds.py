"""A seed: the run that is stopped and goes on, beside the one that never was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jax_ssp.controller.events import Resumed
from jax_ssp.controller.tape import Tape
from jax_ssp.testing.require import require
from jax_ssp.testing.simulation.audit import Audit
from jax_ssp.testing.simulation.closure import difference, plain
from jax_ssp.testing.simulation.dice import Dice
from jax_ssp.testing.simulation.disk import Died, Disk
from jax_ssp.testing.simulation.process import Process, Watching
from jax_ssp.testing.simulation.scenario import Scenario


class Counts(NamedTuple):
    """What a seed came to."""

    rows: int = 0
    resumes: int = 0
    saves: int = 0
    merged: int = 0


class _Fate:
    """When the process dies: after so many rows and operations of the disk."""

    def __init__(self, scenario: Scenario) -> None:
        self.dice = Dice(scenario.seed ^ 0xDEAD)
        self._polite = scenario.polite
        self._stops = iter(scenario.stops)
        self._left = next(self._stops, -1)

    def row(self) -> bool:
        """A row comes; says whether the process is told to go, and raises `Died` if it is not."""
        if self._is_due():
            if self.dice.hits(self._polite):
                return True
            raise Died
        return False

    def operation(self) -> None:
        """The disk is used."""
        if self._is_due():
            raise Died

    def _is_due(self) -> bool:
        due = self._left == 0
        self._left = next(self._stops, -1) if due else self._left - 1
        return due


def simulate(scenario: Scenario) -> Counts:
    """Run what a seed stands for, and check all that is to be so.

    Raises:
        AssertionError: if the run lost something, has it twice, or came back as another one.
        Exception: whatever a part of the product raises.
    """
    fate, audit = _Fate(scenario), Audit()
    disk = Disk(fate.operation, fate.dice)
    known: list[Known] = []
    term = 0
    while True:
        process = Process(scenario, disk, audit, term, fate.row, _first(term, known))
        try:
            process.run()
            break
        except Died:
            term += 1
            _stopped(scenario, disk, audit, fate.dice)
    audit.check(process.tape, process.store, process.workers.cursors, process.ledger)
    _compare(scenario, process, known)
    return Counts(len(process.tape), term, audit.saves, process.loop.totals.updates)


class Known(NamedTuple):
    """What a process knows that has resumed a run: after so many rows, in which term."""

    rows: int
    term: int
    state: Any


def _first(resumed: int, known: list[Known]) -> Watching:
    """Adds what a resumed process knows before the first row that is not on the tape."""
    due = resumed > 0

    def watching(rows: int, term: int, state: Callable[[], Any]) -> None:
        nonlocal due
        if due:
            known.append(Known(rows, term, state()))
            due = False

    return watching


def _stopped(scenario: Scenario, disk: Disk, audit: Audit, dice: Dice) -> None:
    """The process is dead, and perhaps the machine; some things are no longer what they were."""
    power = dice.hits(scenario.power)
    if power:
        disk.fail()
    audit.stopped(power)
    steps = [name for name in disk.names() if name.startswith("checkpoints/") and "." not in name]
    if steps and dice.hits(scenario.damage):
        disk.flip(steps[-1])
        audit.damaged()


def _compare(scenario: Scenario, process: Process, known: Sequence[Known]) -> None:
    """Hold a run against one that was never stopped: at each resume, and at the end."""
    same = scenario.same
    wanted = {(rows, 0 if same else term) for rows, term, _ in known}
    found: dict[tuple[int, int], Any] = {}

    def watching(rows: int, term: int, state: Callable[[], Any]) -> None:
        if (rows, term) in wanted and (rows, term) not in found:
            found[rows, term] = state()

    disk, audit = Disk(lambda: None, Dice(0)), Audit()
    alone = replace(scenario, stops=(), saves=0, writes=False)
    other = Process(alone, disk, audit, 0, lambda: False, watching)
    if same:
        other.undisturbed()
        _same_tape(process.tape, other.tape)
    else:
        other.repeat(process.tape)
    for rows, term, state in known:
        there = difference(state, found.get((rows, 0 if same else term)))
        require(not there, f"after the resume at row {rows} it is not what it was", there)
    there = difference(process.state(), other.state())
    require(not there, "at the end it is not what it would have been", there)


def _same_tape(one: Tape, other: Tape) -> None:
    mine = [plain(entry) for entry in one if not isinstance(entry.event, Resumed)]
    theirs = [plain(entry) for entry in other]
    for row, (here, there) in enumerate(zip(mine, theirs, strict=False)):
        require(here == there, f"row {row} is another one than without a stop", here, there)
    require(len(mine) == len(theirs), "it has other rows", len(mine), len(theirs))
