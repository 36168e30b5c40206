"""One process of a run: from a start or a resume to the end of the run, or to its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jax_ssp.controller import Phase
from jax_ssp.controller.tape import Tape
from jax_ssp.runtimes.base import Clock, World
from jax_ssp.runtimes.cut import Cut
from jax_ssp.runtimes.dealing import dealing, ledger_of
from jax_ssp.runtimes.loop import Loop
from jax_ssp.runtimes.resuming import Resuming, Unfinished
from jax_ssp.runtimes.saving import Saving
from jax_ssp.testing.require import require
from jax_ssp.testing.simulation.arithmetic import NumberStore
from jax_ssp.testing.simulation.audit import Audit
from jax_ssp.testing.simulation.chaos import Again, Chaos, Seen
from jax_ssp.testing.simulation.closure import plain
from jax_ssp.testing.simulation.dice import Dice
from jax_ssp.testing.simulation.disk import Died, Disk
from jax_ssp.testing.simulation.files import Steps, TapeFile
from jax_ssp.testing.simulation.scenario import Scenario
from jax_ssp.testing.simulation.workers import Workers

LONGEST = 2000  # rows in which every run is over
GRACE = 6  # rows that a process has which is told to go

Watching = Callable[[int, int, Callable[[], Any]], None]
"""Is told, before each row, how many there are, the term, and how to get all that is known."""


class Process:
    """A process that runs, or goes on with, the run whose files are on a disk.

    Args:
        scenario: of the run.
        disk: may raise `Died`.
        audit: watches.
        term: how often the run was resumed.
        tick: called before each row; it may raise `Died`, and says whether the process is told to
            go.
        watching: see `Watching`.
    """

    def __init__(
        self,
        scenario: Scenario,
        disk: Disk,
        audit: Audit,
        term: int,
        tick: Callable[[], bool],
        watching: Watching,
    ) -> None:
        self.store: Any = NumberStore()
        self.ledger = ledger_of(scenario.header())
        self.workers = Workers(scenario, self.store, audit, self.ledger)
        self.seen = Seen()
        self.file = TapeFile(disk, audit)
        self.steps = Steps(disk, audit)
        self.loop: Loop
        self._scenario = scenario
        self._audit = audit
        self._term = term
        self._tick = tick
        self._watching = watching
        self._writing: Iterator[None] | None = None
        self._dice = Dice(~scenario.seed)
        self._rows = 0  # that this process has taken

    @property
    def tape(self) -> Tape:
        """The run's."""
        return self.loop.tape

    def run(self) -> None:
        """Run to the end of the run.

        Raises:
            Died: if the process comes to its own before.
        """
        told = self.file.read()
        if told is None:
            told = Tape(self._scenario.header())
            self.file.begin(told)
        made = self.steps.newest(len(told))
        self._audit.resumes(told, 0 if made is None else made.rows)
        history = self.file.history(0 if made is None else made.facts["told"][1])
        if told.complete:
            self.repeat(told)
            return
        self._enter(Tape(told.header), self._chaos())
        self.loop.saving = self._saving()
        if len(told):
            first, now = self._scenario.ends, self._scenario.ends_of(self._term)
            workers: Any = self.workers.seats
            unfinished = Unfinished(told, made, history, (), first, now)
            count = self._scenario.workers_of(self._term)
            Resuming(self.loop, unfinished, workers, count).run()
            self._write_term()
        else:
            self.loop.begin()
        self._go_on()

    def _write_term(self) -> None:
        """Nobody computes anything under a new term before that is on the disk."""
        self.file.flush(self.tape, self.loop.history)
        self.file.sync()

    def undisturbed(self) -> None:
        """Run it from the start to the end, and write nothing."""
        self._enter(Tape(self._scenario.header()), self._chaos())
        self.loop.begin()
        self.loop.run()

    def repeat(self, tape: Tape) -> None:
        """Compute a whole tape from its first row to its last, and nothing else."""
        self._enter(Tape(tape.header), Again(tape, self.workers, self.seen, self._before))
        self.loop.begin()
        self.loop.run()

    def _chaos(self) -> Chaos:
        scenario, workers = self._scenario, self.workers
        return Chaos(scenario, workers, self._audit, self.seen, self._term, self._before)

    def _enter(self, tape: Tape, clock: Clock) -> None:
        self.loop = Loop(self._scenario.controller(), self.store, tape)
        self.loop.dealing = dealing(self.ledger, tape.header)
        self.loop.donates = self._scenario.donates
        self.workers.tape = tape
        self.loop.enter(World(clock, self.workers))

    def _go_on(self) -> None:
        """What is left of the run, once all that was on the tape has happened."""
        self.loop.run()
        if self.tape.complete:
            self.file.end(self.tape, self.loop.history)
            return
        self.file.flush(self.tape, self.loop.history)
        for _ in self._writing or ():
            pass
        if not (self.loop.saving and self.loop.saving.suspended):
            raise AssertionError(f"the run has stopped after {len(self.tape)} rows")
        raise Died

    def _before(self) -> None:
        """What the process does between two rows, besides."""
        self._rows += 1
        require(self._rows < LONGEST, "the run does not end", self._rows)
        if self._tick():
            if self.loop.saving is None:
                raise Died
            self.loop.saving.suspend()
        self._watching(self.seen.rows, self.seen.term, self.state)
        if not self._scenario.writes:
            return
        dice = self._dice
        dice.at(self.seen.rows)
        if self._writing is not None:
            for _ in range(dice.below(4)):
                if next(self._writing, self) is self:
                    self._writing = None
                    break
        if dice.hits(25):
            self.file.flush(self.tape, self.loop.history)
            if dice.hits(30):
                self.file.sync()

    def _saving(self) -> Saving | None:
        every, by_clocks = self._scenario.saves, self._scenario.by_clocks
        if not every:
            return None
        seconds, clocks = (None, every) if by_clocks else (every, None)
        return Saving(self._save, seconds, clocks, grace=GRACE, now=lambda: self._rows)

    def _save(self, made: Cut) -> None:
        """Begin to write a cut; one that is being written is finished before."""
        for _ in self._writing or ():
            pass
        self.file.flush(self.tape, self.loop.history)
        self.file.sync()
        self._writing = self.steps.saving(made)

    def _dealt(self) -> Any:
        """What the ledger has to say, but for numbers that are passed."""
        if self.ledger is None:
            return None
        seats = self.ledger._seats.items()
        ledger = {n: each for n, each in vars(self.ledger).items() if n != "_seats"}
        return ledger, {w: (s.turn, s.given, s.last, s.ahead, s.token) for w, s in seats}

    def _granted(self) -> dict[int, Any]:
        """The grants that are not void."""
        controller, granted = self.loop.controller, self.workers.granted
        over = {w for w in controller.workers if controller.phase(w) is Phase.FINISHED}
        return {worker: granted[worker] for worker in sorted(granted.keys() - over)}

    def state(self) -> Any:
        """All that the process knows of the run."""
        loop = self.loop
        parts = {
            "controller": loop.controller,
            "fold": loop.fold,
            "totals": loop.totals,
            "seconds": loop.seconds,
            "metrics": loop.records.metrics,
            "by data": loop.ending.by_data,
            "store": self.store,
            "workers": [seat.replica for seat in self.workers.seats],
            "jobs": self.workers.jobs,
            "ledger": self._dealt(),
            "granted": self._granted(),
            "world": self.seen,
            "timer": loop.clock.timer,
        }
        return plain(parts), list(loop.history)
