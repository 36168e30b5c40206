"""When a clock may be started or granted ahead, and a worker be stopped: clauses 1 to 3."""

from __future__ import annotations

from jax_ssp.controller.commands import StartAhead, StartClock, StopWorker
from jax_ssp.controller.contract.book import Book
from jax_ssp.controller.contract.incarnations import Incarnation
from jax_ssp.controller.events import Token
from jax_ssp.controller.weight import weight_of


class Starts(Book):
    """Checks the commands that let workers run."""

    def _started(self, start: StartClock) -> None:
        worker, clock, version = start.worker, start.clock, start.version
        incarnation = self.live.get(worker)
        if incarnation is None or incarnation.running is not None or incarnation.stopped:
            raise self._violation(1, f"{start}, but the worker is not waiting")
        finished = self.finished.of[worker]
        if clock != finished:
            raise self._violation(1, f"{start}, but it has finished {finished} clocks")
        if incarnation.ahead is not None and incarnation.ahead.local_steps > start.local_steps:
            raise self._violation(1, f"{start}, but it was granted {incarnation.ahead}")
        if start.num_workers != len(self.live) or start.local_steps < 1:
            raise self._violation(3, f"{start}: there are {len(self.live)} workers")
        if not 0 <= version <= self.version:
            raise self._violation(2, f"{start}: no such version")
        self._gate(start)
        unread: list[int] = []
        for stamp, merged_in in reversed(incarnation.log if self.reads_own else ()):
            if merged_in is not None and merged_in <= version:
                break
            unread.append(stamp)
        own = tuple(reversed(unread))
        if self.waits_for_own and incarnation.log and incarnation.log[-1][1] is None:
            raise self._violation(
                3, f"{start}, but its own delta {incarnation.log[-1][0]} waits still"
            )
        if start.pending != own:
            raise self._violation(3, f"{start}, but it is to have its own deltas {own}")
        if self.weight is not None and start.weight != weight_of(self.weight, start.num_workers):
            weight = weight_of(self.weight, start.num_workers)
            raise self._violation(3, f"{start}, but a delta merged alone has the weight {weight}")
        if version not in (self.version, incarnation.held):
            raise self._violation(2, f"{start}: neither the newest, {self.version}, nor held")
        self._see_round(start, version)
        if start.token != (token := Token(self.term, self.grants)):
            raise self._violation(4, f"{start}, but the next token is {token}")
        self.grants += 1
        self._adopt(start, incarnation)
        incarnation.held = version
        incarnation.running = start
        incarnation.ahead = None
        self.running += 1
        self.reads += 1

    def _adopt(self, start: StartClock, incarnation: Incarnation) -> None:
        """Note which fragments a clock takes from its version: all, or the one pushed last."""
        fragments, adopted = self.fragments, incarnation.adopted
        whole = fragments == 1 or adopted is None
        if start.whole is not whole:
            what = "all fragments" if whole else "the one pushed last"
            raise self._violation(2, f"{start}, but it is to adopt {what}")
        if fragments > 1 and adopted is None:
            incarnation.adopted = [start.version] * fragments
        elif adopted is not None:
            adopted[(start.clock - 1) % fragments] = start.version

    def _granted(self, ahead: StartAhead) -> None:
        worker, clock, local_steps = ahead.worker, ahead.clock, ahead.local_steps
        incarnation = self.live.get(worker)
        if (
            incarnation is None
            or incarnation.running is None
            or incarnation.running.clock != clock - 1
        ):
            raise self._violation(1, f"{ahead}, but the worker does not run clock {clock - 1}")
        if incarnation.ahead is not None:
            raise self._violation(1, f"{ahead}, but it was granted {incarnation.ahead}")
        if local_steps < 1:
            raise self._violation(3, f"{ahead}: there are no steps")
        self._not_ending(ahead)
        incarnation.ahead = ahead
        self.ahead += 1

    def _not_ending(self, command: StartClock | StartAhead) -> None:
        if self.ending:
            raise self._violation(5, f"{command}, but the run is ending")

    def _gate(self, start: StartClock) -> None:
        """What has to be so when a clock is started."""
        self._not_ending(start)
        low = self._min_clock()
        self.max_start_lag = max(self.max_start_lag, start.clock - low)
        if self.bound is None:
            return
        needed = start.clock - self.bound
        if low < needed:
            raise self._violation(1, f"{start}, but a live worker has finished only {low}")
        covers = self.coverage[start.version]
        if covers < needed:
            raise self._violation(2, f"{start}: version {start.version} covers {covers} < {needed}")

    def _stopped(self, worker: int, command: StopWorker) -> None:
        incarnation = self.live.get(worker)
        if incarnation is None or incarnation.running is not None or incarnation.stopped:
            raise self._violation(5, f"{command}, but the worker is not waiting")
        if incarnation.ahead is not None:
            # A void grant says that the run ends, so that nobody starts after it; or that a resume
            # has taken that clock off the run.
            self.ending |= self.clocks is None or incarnation.ahead.clock < self.clocks
            incarnation.ahead = None
        self.unfinished -= 1
        incarnation.stopped = True
