"""What has to be so when a delta is merged or dropped, or a clock cancelled: clause 4."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from jax_ssp.controller.commands import NOT_FINITE, Cancel, Drop, Merge
from jax_ssp.controller.contract.book import Book
from jax_ssp.controller.contract.incarnations import Incarnation
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.controller.fragments import by_fragment
from jax_ssp.controller.weight import Weight, weights_of


class Settling(Book):
    """Checks the commands that settle clocks."""

    def _merge(self, merge: Merge) -> None:
        if merge.version != self.version + 1:
            raise self._violation(4, f"{merge} after {self.version}")
        if not merge.deltas:
            raise self._violation(4, f"{merge} of nothing")
        settled = [
            self._settle(delta.worker, delta.clock, delta.token, merge) for delta in merge.deltas
        ]
        lost = {
            id(incarnation)
            for push, incarnation in settled
            if self.live.get(push.worker) is not incarnation
        }
        workers = len(self.live) + len(lost)
        if merge.num_workers != workers:
            raise self._violation(4, f"{merge}: there are {workers} workers")
        together = {push.clock % self.fragments for push, _ in settled}
        weights = [delta.weight for delta in merge.deltas]  # the policy's own are seen in `answers`
        if self.weight is not None and not self.gives_weights:
            weights = self._weights([push for push, _ in settled], self.weight, workers)
        totals = self.totals[self.version]
        for delta, weight, (push, incarnation) in zip(merge.deltas, weights, settled, strict=True):
            worker = push.worker
            base, staleness = self._base_of(push, incarnation)
            incarnation.bases.pop(push.clock, None)
            if not push.finite:
                raise self._violation(4, f"{delta}, but not all its numbers are finite")
            here = self.live.get(worker) is incarnation
            lag = self.finished.of[worker] - self._min_clock() if here else 0
            told = (delta.base, delta.staleness, delta.lag, delta.weight)
            found = (base, staleness, lag, weight)
            if told != found:
                raise self._violation(4, f"{delta}: base, staleness, lag, weight are {found}")
            if self.staleness_bound is not None and staleness > self.staleness_bound:
                raise self._violation(2, f"{delta}: allowed are {self.staleness_bound}")
            totals = totals.and_of(push)
            self.total_staleness += staleness
            self.max_staleness = max(self.max_staleness, staleness)
        self._see_round(merge, self.version)
        self.version += 1
        for fragment in together if self.fragments > 1 else ():
            self.merged_in[fragment].append(self.version)
        self.totals.append(totals)
        self.coverage.append(0)
        self._see_coverage()

    def _weights(
        self, pushes: Sequence[DeltaReady], weight: Weight, workers: int
    ) -> Sequence[float]:
        """By the rule, those of each fragment by themselves."""

        def weigh(pushes: Sequence[DeltaReady]) -> Sequence[float]:
            return weights_of(weight, workers, pushes)

        if self.fragments == 1:
            return weigh(pushes)
        return by_fragment(pushes, self.fragments, weigh)

    def _drop(self, drop: Drop) -> None:
        if not drop.reason:
            raise self._violation(4, f"{drop} has no reason")
        _, incarnation = self._settle(drop.worker, drop.clock, drop.token, drop)
        incarnation.bases.pop(drop.clock, None)
        self._see_coverage()
        self.dropped += 1

    def _cancel(self, cancel: Cancel) -> None:
        worker, clock = cancel.worker, cancel.clock
        incarnation = self.live.get(worker)
        running = incarnation and incarnation.running
        told = (clock, cancel.token)
        if (
            incarnation is None
            or running is None
            or told != (running.clock, running.token)
            or incarnation.ahead
        ):
            raise self._violation(4, f"{cancel}, but the worker does not run that clock alone")
        if not cancel.reason:
            raise self._violation(4, f"{cancel} has no reason")
        if incarnation.log and incarnation.log[-1][1] is None:
            raise self._violation(4, f"{cancel}, but an earlier delta waits")
        incarnation.running = None
        incarnation.held = -1
        incarnation.adopted = None
        self.running -= 1
        self.finished.put(worker, clock + 1)
        self.settled.put(worker, clock + 1)
        self.max_lag = max(self.max_lag, clock + 1 - self._min_clock())
        self._see_coverage()
        self.cancelled += 1

    def _settle(
        self, worker: int, clock: int, token: Token, command: Merge | Drop
    ) -> tuple[DeltaReady, Incarnation]:
        """Take a delta off the list of those under way; gives its push, and who pushed it."""
        found = self.pushed.pop((worker, clock), None)
        if found is None or found[0].token != token:
            raise self._violation(4, f"{command}: ({worker}, {clock}) is not under way")
        incarnation = found[1]
        if self.live.get(worker) is incarnation:
            log = incarnation.log
            at = len(log) - 1
            while log[at][0] != clock:
                at -= 1
            if at > 0 and log[at - 1][1] is None:
                if isinstance(command, Merge) or command.reason != NOT_FINITE:
                    raise self._violation(4, f"{command}: ({worker}, {clock}) overtakes its own")
                del log[at]
                return found
            if isinstance(command, Merge):
                log[at] = (clock, command.version)
            else:
                del log[at]
            waiting = (stamp for stamp, version in islice(log, at, None) if version is None)
            self.settled.put(worker, next(waiting, self.finished.of[worker]))
        return found
