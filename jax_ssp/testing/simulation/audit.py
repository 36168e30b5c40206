"""Who watches from outside: what was computed, what had come to the disk, and what became of all.

It is no part of the process that dies, and believes nothing that a process says of itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax_ssp.controller import check_contract
from jax_ssp.controller.commands import StartClock, is_fenced
from jax_ssp.controller.events import DeltaReady, Token, WorkerJoined
from jax_ssp.controller.rows import Fold
from jax_ssp.controller.tape import Tape
from jax_ssp.data.ledger import Ledger
from jax_ssp.runtimes.dealing import report_of
from jax_ssp.testing.require import require
from jax_ssp.testing.simulation.arithmetic import Delta, NumberStore, counted
from jax_ssp.testing.simulation.scenario import SAMPLES


class Audit:
    """What is known of a run, whatever becomes of its processes.

    Attributes:
        deltas: of each clock that was computed.
        starts: of these.
        written, synced: rows of the tape that a stop of the process, or of the machine, leaves.
        step: the rows of the newest checkpoint that is whole on the disk; None if that is damaged.
        saves: checkpoints that came to the disk.
        ghosts: clocks that were computed, and are not on the tape any more.
        heirs: by row in which somebody took over a state, the stamps of what was taken off it.
    """

    def __init__(self) -> None:
        self.deltas: dict[Token, Delta] = {}
        self.starts: dict[Token, StartClock] = {}
        self.written = self.synced = 0
        self.step: int | None = 0
        self.saves = 0
        self.ghosts: list[StartClock] = []
        self.heirs: dict[int, tuple[int, ...]] = {}
        self._gone: dict[Token, Delta] = {}
        self._passed: dict[Token, tuple[int, ...]] = {}

    def computed(self, start: StartClock, delta: Delta) -> None:
        """A clock is computed; if it was before, it comes to the same."""
        if self.starts.get(start.token) == start:
            same = self.deltas[start.token] == delta
            require(same, "computed again, a clock came to another delta", start, delta)
        self.starts[start.token], self.deltas[start.token] = start, delta

    def lost(self, start: StartClock, delta: Delta) -> None:
        """The worker of a clock is gone; this is what it may push some time."""
        self._gone[start.token] = delta

    def pushed(self, token: Token) -> Delta:
        """What comes under a token, though nobody waits for it any more."""
        return self.deltas.get(token) or self._gone[token]

    def passed_over(self, token: Token, batches: tuple[int, ...]) -> None:
        """A clock is cancelled, whose batches these were."""
        self._passed[token] = batches

    def saved(self, rows: int) -> None:
        """A checkpoint is on the disk, with so many rows."""
        self.step = rows
        self.saves += 1
        require(self.synced >= rows, "a checkpoint is ahead of the tape", rows, self.synced)

    def damaged(self) -> None:
        """Somebody has damaged the newest checkpoint."""
        self.step = None

    def stopped(self, power: bool) -> None:
        """The process has died; or the machine, which has lost what was not synced."""
        if power:
            self.written = self.synced

    def resumes(self, tape: Tape, step: int) -> None:
        """A process has found a tape, and a checkpoint at so many rows of it."""
        rows = len(tape)
        require(rows >= self.written, "rows of the tape are gone", rows, self.written)
        newest = self.step is None or step >= self.step
        require(newest, "not the newest checkpoint", step, self.step)
        self.step = step
        if not rows:  # nothing of it has happened
            self.starts.clear()
        told = {c.token for _, _, cs in tape for c in cs if isinstance(c, StartClock)}
        self.ghosts = [start for token, start in self.starts.items() if token not in told]

    def check(
        self, tape: Tape, store: NumberStore, cursors: Sequence[int], ledger: Ledger | None
    ) -> None:
        """The run is over: its contract is kept, and nothing was lost or doubled.

        Args:
            tape: of the run.
            store: at its end.
            cursors: of each worker, how many batches it has begun.
            ledger: of what they share; None if each has its own.
        """
        check_contract(tape)
        self._check_heirs(tape)
        fold = Fold()
        rows = [row for entry in tape for row in fold.take(*entry)]
        merged: list[int] = []
        others: list[int] = []
        for row in rows:
            if row.merge_version >= 0:
                merged += self.deltas[row.token].batches
            elif row.steps:
                others += self.deltas[row.token].batches
            else:
                others += self._passed[row.token]
        require(len(set(merged)) == len(merged), "a batch was merged twice", sorted(merged))
        expected = counted(tuple(merged))
        require(store.counts == expected, "not in the sum once", self._differing(store, expected))
        if ledger is None:
            of = len(cursors)
            begun = {w + of * n for w, cursor in enumerate(cursors) for n in range(cursor)}
            self._check_batches(merged + others, begun)
        else:
            self._check_shared(tape, merged, others, ledger)
        if tape.complete:
            require(not store.unsettled, "the store keeps what is settled", store.unsettled)

    def _check_heirs(self, tape: Tape) -> None:
        """Of a state that was taken over, what its donor had pushed is taken off if it waits."""
        waiting: dict[Token, DeltaReady] = {}
        fold = Fold()
        for number, (now, event, commands) in enumerate(tape, 1):
            if isinstance(event, DeltaReady) and not is_fenced(commands):
                waiting[event.token] = event
            for row in fold.take(now, event, commands):
                waiting.pop(row.token, None)
            if isinstance(event, WorkerJoined) and event.donor is not None:
                # What the join itself has merged is in the version that the heir begins with.
                stamps = [push.clock for push in waiting.values() if push.worker == event.donor]
                found = self.heirs.get(number)
                same = found is not None and sorted(found) == sorted(stamps)
                require(same, "not what waits is taken off a donor's state", event, found, stamps)

    def _check_shared(
        self, tape: Tape, merged: list[int], others: list[int], ledger: Ledger
    ) -> None:
        """Every batch up to the last that was settled is settled, or is to be given out next."""
        report = report_of(tape)
        told = (report.merged, report.seen, report.dropped)
        found = (SAMPLES * len(merged), SAMPLES * len(merged), SAMPLES * len(others))
        require(told == found, "the report counts other samples", report, found)
        last = max(merged + others, default=-1)
        epochs = 1 + last // tape.header["data"]["batches_per_epoch"]
        free = set(ledger.settled.free(epochs))
        for seat in ledger._seats.values():  # for clocks that were granted ahead, and not started
            free.update(seat.ahead)
        under_way = {number for numbers in ledger._clocks.values() for number in numbers}
        require(not (tape.complete and under_way), "given out, never settled", under_way)
        self._check_batches(merged + others, set(range(last + 1)) - free)

    def _check_batches(self, settled: Sequence[int], begun: set[int]) -> None:
        seen = set(settled)
        require(len(seen) == len(settled), "a batch was given twice", sorted(settled))
        require(begun >= seen, "a batch was given before its time", sorted(seen - begun))
        require(begun == seen, "a batch was never settled", sorted(begun - seen))

    def _differing(self, store: NumberStore, expected: int) -> list[tuple[int, int, int]]:
        """Of each batch that is wrong, how often it is in the sum, and how often it should be."""
        found: list[tuple[int, int, int]] = []
        here, there, batch = store.counts, expected, 0
        while here or there:
            if here & 15 != there & 15:
                found.append((batch, here & 15, there & 15))
            here, there, batch = here >> 4, there >> 4, batch + 1
        return found
