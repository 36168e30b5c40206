"""A model of the contract by brute force, which judges every answer of a controller.

It believes nothing that a controller says, and recomputes whatever a command claims by scanning the
bare facts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jax_ssp.controller import (
    Cancel,
    DeltaReady,
    Drop,
    Fence,
    Merge,
    SetTimer,
    StartAhead,
    StartClock,
    StopWorker,
    Token,
    WorkerDone,
    WorkerLost,
)
from jax_ssp.controller.commands import NOT_FINITE, Command
from jax_ssp.controller.events import Event
from jax_ssp.policies import Delta
from jax_ssp.testing.facts import Facts, Push, Stay
from jax_ssp.testing.require import require


class Model(Facts):
    """Every clause of the contract as an assertion about the facts of a run."""

    def _see_lag(self) -> None:
        lags = (stay.clock - self.min_clock for stay in self.live.values())
        self.max_lag = max(self.max_lag, *lags, 0)
        within = self.bound is None or self.max_lag <= self.bound + 1
        require(within, "a worker is further ahead than it promises (lag)", self.max_lag)

    def entry(self, event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, DeltaReady | WorkerDone) and self.is_late(event):
            fenced = [Fence(event.worker, event.clock, event.token)]
            require(commands == fenced, "what is late was not fenced", commands)
            self.late += isinstance(event, DeltaReady)
            return
        if isinstance(event, DeltaReady) and not event.finite:
            bad = Drop(event.worker, event.clock, NOT_FINITE, event.token)
            require(commands[:1] == [bad], "what is not finite was not dropped at once", commands)
        self.happen(event)
        self._see_lag()
        for command in commands:
            self._look_at_command(command)
            match command:
                case StartClock():
                    self._start(command)
                case StartAhead():
                    self._start_ahead(command)
                case Merge():
                    self._merge(command)
                case Drop(worker, clock, reason, token):
                    require(bool(reason), "dropped without a reason", command)
                    self._under_way(worker, clock, token).dropped = True
                    self.dropped += 1
                case Cancel(worker, clock, reason, token):
                    require(bool(reason), "cancelled without a reason", command)
                    require(self.policy.cancels, "cancelled, and it says it never does", command)
                    self._cancel(worker, clock, token)
                case Fence():
                    require(False, "fenced, but not late", command, event)
                case SetTimer(at):
                    self.timer = at
                case StopWorker(worker):
                    require(self.live[worker].waiting, "stopped while it does not wait", command)
                    self.live[worker].stopped = True
        if isinstance(event, WorkerLost) and event.drops:
            left = [push for push in self.gone[-1].pushes if not push.settled]
            require(not left, "what was lost with its worker is not dropped", left)
        self._grants(commands)
        self._order(event, commands)
        alive = self.running() or self.timer is not None or not self.waiting()
        require(bool(alive), "nobody can run, and workers wait", self.waiting())
        left = self.running() or self.waiting() or not self.buffered
        require(bool(left), "deltas are left behind", self.buffered)

    def _look_at_command(self, command: Command) -> None:
        """What is known of the run besides (see `judge.py`)."""

    def _grants(self, commands: Sequence[Command]) -> None:
        """Who is started is granted its next clock, if there is one, and nobody else is."""
        granted = [command[:2] for command in commands if isinstance(command, StartAhead)]
        starts = [c for c in commands if isinstance(c, StartClock)] if self.grant_ahead else []
        last = None if self.num_clocks is None else self.num_clocks - 1
        due = [(s.worker, s.clock + 1) for s in starts if s.clock != last]
        require(granted == due, "not exactly the clocks after those started are granted", commands)

    def _order(self, event: Event, commands: Sequence[Command]) -> None:
        """First what is settled, then starts and stops, the event's own worker last of these.

        Where nobody runs then, what is left is merged, and once more some are released.
        """
        kinds = Merge | Drop | Cancel | SetTimer
        parts = itertools.groupby(commands, lambda command: isinstance(command, kinds))
        groups = [(is_settled, list(part)) for is_settled, part in parts]
        settled, *released = groups or [(True, [])]
        if not settled[0]:
            released.insert(0, settled)
        wrong = "not first what is settled, then who is released"
        require(len(released) <= 3, wrong, commands)
        if len(released) > 1:
            require(not any(isinstance(c, StartClock) for c in released[0][1]), wrong, commands)
            require(isinstance(released[1][1][0], Merge), wrong, commands)
        for number, (_, part) in enumerate(released[::2]):
            each = [
                worker for worker, _ in itertools.groupby(getattr(c, "worker", None) for c in part)
            ]
            apart = "a StartAhead away from its StartClock"
            require(len(each) == len(set(each)), apart, commands)
            if number == 0:
                last = getattr(event, "worker", None) not in each[:-1]
                require(last, "the event's own worker was not asked last", commands)

    def _start(self, start: StartClock) -> None:
        require(start.worker in self.live, "started, and it is not here", start)
        stay = self.live[start.worker]
        require(stay.waiting, "started while it does not wait", start)
        require(not self.ended, "started after the end", start)
        due = start.clock == stay.clock and self.exists(start.clock)
        require(due, "started in a clock that is not its next", start, stay.clock)
        steps = start.local_steps
        require(type(steps) is int and steps >= 1, "a clock has at least 1 step", start)
        told = start.num_workers, start.weight
        here = len(self.live), self._weight(len(self.live), merged=1)
        require(told == here, "another number of workers, or weight, than there is", start)
        known = start.version in (self.version, stay.held)
        require(known, "it reads a version that is neither the newest nor the one it has", start)
        shorter = not stay.ahead or stay.ahead.local_steps <= start.local_steps
        require(shorter, "a clock has fewer steps than were granted ahead", start, stay.ahead)
        if self.policy.waits_for_own:
            settled = all(push.settled for push in stay.pushes)
            require(settled, "it starts, though it says it waits for its own deltas", start)
        missing = [push for push in stay.pushes if push.missing_in(start.version)]
        own = tuple(push.delta.clock for push in missing if self.reads_own)
        require(start.pending == own, "other own deltas than those not merged", start, own)
        require(start.round == self.round(start.version), "another round", start)
        if self.bound is not None:
            needed = start.clock - self.bound
            slowest = min(other.clock for other in self.live.values())
            require(slowest >= needed, "it starts beyond the bound", start, slowest)
            covered = self.coverage(start.version)
            require(covered >= needed, "it reads what covers less than the bound", start, covered)
        token = (self.term, len(self.starts))
        require(start.token == token, "grants are not counted up, or not of this term", start)
        whole = self.fragments == 1 or stay.anew
        require(start.whole is whole, "it adopts other fragments than it is to", start)
        stay.anew = False
        stay.starts.append(start)
        self.starts.append(start)
        stay.running, stay.held, stay.ahead = start, start.version, None
        self.reads += 1
        self.start_lags.append(start.clock - self.min_clock)

    def _start_ahead(self, ahead: StartAhead) -> None:
        worker, clock, local_steps = ahead
        require(worker in self.live, "granted ahead, and it is not here", ahead)
        stay = self.live[worker]
        running = stay.running
        next_one = running is not None and clock == running.clock + 1 and self.exists(clock)
        require(next_one, "granted ahead a clock that is not its next", ahead)
        require(stay.ahead is None, "granted ahead twice", ahead, stay.ahead)
        require(not self.ended, "granted ahead after the end", ahead)
        require(type(local_steps) is int and local_steps >= 1, "not even 1 step", ahead)
        stay.ahead = ahead
        self.grants += 1

    def _cancel(self, worker: int, clock: int, token: Token) -> None:
        stay = self.live[worker]
        run = stay.running
        ran = run is not None and (run.clock, run.token) == (clock, token) and not stay.ahead
        if run is None or not ran:
            raise AssertionError(f"a clock was cancelled that does not run: {worker}, {clock}")
        settled = all(push.settled for push in stay.pushes)
        require(settled, "a clock was cancelled whose worker has a delta that waits", worker, clock)
        push = Push(Delta(worker, clock, run.version), token, dropped=True)
        stay.pushes.append(push)
        stay.running = stay.held = None
        stay.anew = True
        self.cancels += 1
        self._see_lag()

    def _merge(self, merge: Merge) -> None:
        require(merge.version == self.version + 1, "not the next version", merge)
        require(bool(merge.deltas), "a merge of nothing", merge)
        require(merge.round == self.round(self.version), "another round", merge)
        lost: list[Stay] = []
        updates, steps, samples = self.totals[-1]
        known = {push.token for push in self.pushes}
        require(known >= {delta.token for delta in merge.deltas}, "nobody pushed that", merge)
        for delta, weight in zip(merge.deltas, self._weights(merge), strict=True):
            push = self._under_way(delta.worker, delta.clock, delta.token)
            stay = self.stay_of(push)
            here = self.live.get(delta.worker) is stay
            lag = stay.clock - self.min_clock if here else 0
            lost += [] if here else [stay]
            told = (delta.base, delta.staleness, delta.lag, delta.weight)
            base = push.delta.version
            facts = (base, self.staleness(push.delta), lag, weight)
            require(told == facts, "other facts (base, staleness, lag, weight)", delta, facts)
            require(push.finite, "what is not finite is merged", delta)
            push.merged_in = merge.version
            updates, steps, samples = updates + 1, steps + push.steps, samples + push.samples
            self.stalenesses.append(delta.staleness)
            allowed = self.policy.guaranteed_staleness(len(self.everybody))
            within = allowed is None or delta.staleness <= allowed
            require(within, "a delta is staler than the policy promises", delta, allowed)
        self.version = merge.version
        self.merged_in.append({delta.clock % self.fragments for delta in merge.deltas})
        self.totals.append((updates, steps, samples))
        here = len(self.live) + len(set(lost))
        require(merge.num_workers == here, "another number of workers than there is", merge, here)

    def _weight(self, num_workers: int, merged: int) -> float:
        each = {"mean": 1 / num_workers, "sum": 1.0}
        return each.get(self.weight, 1 / merged) if isinstance(self.weight, str) else self.weight

    def _weights(self, merge: Merge) -> list[float]:
        """Of each delta of a merge."""
        if self.policy.gives_weights:  # which nobody else knows
            return [delta.weight for delta in merge.deltas]
        pushes, weights = {push.token: push for push in self.pushes}, list[float]()
        for delta in merge.deltas:
            alike = [d for d in merge.deltas if (d.clock - delta.clock) % self.fragments == 0]
            weights.append(self._weight(merge.num_workers, len(alike)))
            if self.weight in ("samples", "tokens"):
                counts = [getattr(pushes[each.token], str(self.weight)) for each in alike]
                own = getattr(pushes[delta.token], str(self.weight))
                weights[-1] = own / sum(counts) if sum(counts) else 1 / len(alike)
        return weights

    def _under_way(self, worker: int, clock: int, token: Token) -> Push:
        """The one delta that is to be settled now; a live worker's own go in order."""
        found = [push for push in self.pushes if push.delta[:2] == (worker, clock)]
        require(len(found) == 1, "a delta that nobody pushed, or twice", worker, clock, found)
        push = found[0]
        require(push.token == token, "another token than it was pushed under", push.delta, token)
        require(not push.settled, "merged or dropped twice", push.delta)
        stay = self.stay_of(push)
        if self.live.get(worker) is stay:
            first = next(each for each in stay.pushes if not each.settled)
            in_turn = first is push or not push.finite
            require(in_turn, "settled before an older one of its worker", push.delta)
        return push
