"""The staleness controller: who may run, what is merged, who adopts which version.

A state machine without input or output. `handle(event, now)` takes one event and gives the commands
that follow from it, in the order in which they are to be carried out. It holds integers and tuples,
never an array, a lock or a thread, and it never reads a clock: time is an argument.

The rules, in order, for every event:

1. *Take it in.* A worker that joins enters at the smallest clock of the live workers (one that was
   here before enters no lower than where it left); its donor, if any, has finished a clock. A
   ready delta advances its worker's clock and is buffered. A worker that is lost, or whose data
   has ended, stops counting at once; what it pushed stays buffered, or is dropped if its loss says
   so. A delta whose token is not the one that its worker runs under is late: it is fenced, and
   that is all. A run that is resumed begins a new term: what is granted from then on bears it,
   what runs goes on under its old token, and all else of older terms is late. Its ends may be
   raised, or lowered to what is not done yet. A delta with a number that is not finite is dropped
   at once: no policy sees it. Its worker is asked for the next clock, for which it adopts anew.
2. *Settle.* The policy is asked what to do with the buffer until it wants nothing more. A merge
   makes one version of one or more deltas. The deltas of a worker are settled (merged or dropped)
   in the order of their stamps; `coverage` is the smallest count of settled deltas of any live
   worker. A policy that says so beforehand may also cancel running clocks: such a clock counts as
   finished and settled, and its worker is asked for the next, for which it adopts anew.
3. *Release.* Exactly the workers that the event can have released are asked whether they may start:
   those that wait for a coverage or a version reached just now, those that gave no reason to wait
   (asked after every event), and the event's own worker.
   *Ahead*, if the run wants that: a worker that is started may go on with the clock after, should
   there be one, while its delta travels. Nobody is asked for that: the policy decides about that
   clock when the delta is there, as without.
4. *End.* A worker that has finished `num_clocks` is stopped. Once a total (of merged deltas, local
   steps or examples) is reached, nobody starts, and what is pushed from then on is dropped; after a
   stop request nobody starts, and what is still pushed is merged. Clocks granted ahead are void
   then. When nobody runs any more, what is left in the buffer is merged as one version. A resume
   undoes the end, whatever it came from, if its ends leave something to do: who was stopped waits
   again, adopts anew, and is asked like those that wait. One that changes no end has no answer.
5. *Stay alive.* If somebody still has clocks to do, then some worker runs or a timer is set. Where
   all wait for more deltas than can come any more, what is buffered is merged as one version; a
   policy that still lets nobody run is stopped with an error rather than left to hang, and so is
   one that sets no timer and settles nothing however much is buffered.

An illegal event raises `ProtocolError` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax_ssp.checks import flag, instance, integer, number, shown
from jax_ssp.controller.answers import TapeLike, check_answers
from jax_ssp.controller.commands import Command, new_merge, new_merged
from jax_ssp.controller.ends import NO_ENDS, Ends
from jax_ssp.controller.events import (
    DeltaReady,
    Event,
    Resumed,
    StopRequested,
    TimerFired,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.facts import Facts, facts_of
from jax_ssp.controller.fragments import check_goes_with
from jax_ssp.controller.roster import Member
from jax_ssp.controller.terms import Terms
from jax_ssp.controller.weight import Weight, check_weight, weight_of
from jax_ssp.policies.base import Policy
from jax_ssp.policies.schedules import LocalSteps, as_schedule


class Controller(Terms):
    """Decides, event by event, for one run.

    Args:
        policy: the rules of admission and merging; the run's own copy of it is made here.
        ends: the counts that end the run; without any only a stop request does.
        local_steps: H, or the schedule of it (steps a clock), where the policy has none of its own.
        weight: of a delta, where the policy gives none: "mean", "sum", "merged", "samples",
            "tokens" or a number; see `jax_ssp.controller.weight`.
        grant_ahead: whether who starts may go on with its next clock; not if clocks are cancelled.
        reads_own: false where deltas are gradients; else workers read their own as the policy says.
        round_samples, fragments: see `Buffer`.

    Raises:
        TypeError, ValueError: if one cannot be what it is.

    Example:
        >>> from jax_ssp.policies import SSP
        >>> controller = Controller(SSP(bound=1), ends=Ends(num_clocks=2))
        >>> (start,) = controller.handle(WorkerJoined(0), now=0.0)
        >>> start.worker, start.clock, start.version, start.token
        (0, 0, 0, Token(term=0, grant=0))
        >>> merge, start = controller.handle(start.finished(), now=1.0)
        >>> merge.deltas[0]._asdict() | {"token": None}
        {'worker': 0, 'clock': 0, 'base': 0, 'staleness': 0, 'lag': 0, 'weight': 1.0, 'token': None}
    """

    __slots__ = ()

    def __init__(
        self,
        policy: Policy,
        *,
        ends: Ends = NO_ENDS,
        local_steps: int | LocalSteps = 1,
        weight: Weight = "mean",
        grant_ahead: bool = False,
        reads_own: bool = True,
        round_samples: int = 0,
        fragments: int = 1,
    ) -> None:
        instance("Controller(policy=...)", policy, Policy, "a Policy such as `SSP(bound=3)`")
        fragments = check_goes_with(
            policy, integer("Controller(fragments=...)", fragments, least=1, most=1024)
        )
        super().__init__(
            policy.begin(),
            instance("Controller(ends=...)", ends, Ends, "such as `Ends(num_clocks=8)`"),
            check_weight(weight),
            as_schedule(local_steps, "Controller(local_steps=...)").begin(),
            integer("Controller(round_samples=...)", round_samples, least=0),
            fragments,
            flag("Controller(grant_ahead=...)", grant_ahead),
            flag("Controller(reads_own=...)", reads_own),
        )

    @classmethod
    def at_start(cls, facts: Facts) -> Controller | None:
        """The controller of a run as it was at its start; None if its header does not say all."""
        policy, schedule, ends, weight = facts.policy, facts.schedule, facts.ends, facts.weight
        overlap, rounds = facts.overlap, facts.round_samples
        if policy is None or schedule is None or ends is None or weight is None:
            return None
        if overlap is None or rounds is None:
            return None
        return cls(
            policy,
            ends=ends,
            local_steps=schedule,
            weight=weight,
            grant_ahead=overlap > 0,
            reads_own=facts.reads_own,
            round_samples=rounds,
            fragments=facts.fragments,
        )

    @classmethod
    def replayed(cls, tape: TapeLike, *kinds: type[Policy] | type[LocalSteps]) -> Controller:
        """The controller of a run as it was after the last row of its tape.

        It is made anew from the header, is given the events, and answers each as the tape does.

        Args:
            tape: of a run in any world; it may break off.
            *kinds: the classes of its policy and schedule, where they are not ours.

        Raises:
            ValueError: if the header does not say all that a controller is made with.
            TapeMismatch: at the first answer that differs.

        Example:
            >>> import jax_ssp as ssp
            >>> run = ssp.train(runtime=ssp.Virtual(4, compute=False), num_clocks=5)
            >>> controller = Controller.replayed(run.tape)
            >>> controller.version, controller.done
            (20, True)
        """
        facts = facts_of(tape.header, kinds)
        controller = cls.at_start(facts)
        if controller is None:
            raise ValueError(
                "the tape's header does not say all that a controller is made with; if its policy "
                "or schedule is a class of your own, give it: `Controller.replayed(tape, Mine)`."
            )
        check_answers(tape, controller)
        return controller

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event in and say what follows from it.

        Args:
            event: what happened.
            now: when (seconds, on any clock that does not go backwards).

        Returns:
            Commands, to be carried out in this order.

        Raises:
            ProtocolError: if the event is impossible; the controller is as it was.
            PolicyError: if the policy decided something illegal; the run cannot go on.
        """
        if type(now) is not float:
            now = number("handle(now=...)", now)
        if not now >= self.now:
            raise self._illegal(event, f"time runs backwards, from {self.now} to {now}")
        commands: list[Command] = []
        cancelled: Sequence[Member] = ()
        waiting = self._waiting
        if type(event) is DeltaReady:
            asking = self._delta_ready(event, now, commands)
            if asking is None:
                return commands
        elif type(event) is WorkerDone and self._is_late(event):
            return [self._fence(event, now)]
        elif type(event) is Resumed:
            asking, reopened = None, self._resume(event)
            self.now = now
            if not reopened:
                return commands
        else:
            asking = self._take_in(event, commands)
            self.now = now
        if self._buffer or self._timer is not None:
            cancelled = self._settle(commands)
        if waiting.for_more or waiting.coverage != self._settled.min:
            self._ask_released(commands)
        for record in cancelled:
            self._ask(record, commands)
        if asking is not None:
            self._ask(asking, commands)
        if not self._running:
            self._when_nobody_runs(commands)
        return commands

    # 1. Take it in.

    def _take_in(self, event: Event, commands: list[Command]) -> Member | None:
        """Check a rarer event, then apply it; gives the worker that it makes ask for work."""
        match event:
            case WorkerJoined(worker, donor):
                self._check_join(event, worker, donor)
                record = self._join(worker)
                self._alone = weight_of(self._weight, len(self._workers))
                return record
            case WorkerLost(worker) | WorkerDone(worker):
                record = self._workers.get(worker)
                if record is None:
                    raise self._illegal(event, "it is not here")
                if type(event) is WorkerDone and event.clock != record.clock:
                    raise self._illegal(event, "it is running another clock")
                self._gone(record, event, commands)
                self._alone = weight_of(self._weight, max(1, len(self._workers)))
            case TimerFired(at):
                if at != self._timer:
                    raise self._illegal(event, f"the timer is set to {self._timer}")
                self._timer = None
            case StopRequested(reason):
                self._end(reason)
            case _:
                raise TypeError(f"`handle(event=...)` must be an event, got {shown(event)}.")
        return None

    def _delta_ready(self, event: DeltaReady, now: float, commands: list[Command]) -> Member | None:
        """Take a delta in; gives its worker, or None if the delta is late."""
        worker, clock, base, token, steps, samples, finite = event[:7]  # quicker than seven names
        record = self._workers.get(worker)
        if (
            record is None
            or record.token is None
            or (token is not record.token and token != record.token)
        ):
            commands.append(self._fence(event, now))
            return None
        if clock != record.clock:
            raise self._illegal(event, "it is running another clock")
        if base != record.version:
            raise self._illegal(event, "it was told to read another version")
        self.now = now
        record.token = None
        record.clock = clock + 1
        self._running -= 1
        self._clocks.advance(clock)
        if self._keeps_own:
            record.unread += (clock,)
        if self._listeners:
            self._tell(record, event)
        if self._at_once and finite:
            # What `_settle` would come to, in half the time: it is merged without being buffered.
            version = self.version
            self.version = made = version + 1
            lag = record.clock - self._clocks.min
            merged = new_merged(worker, clock, base, version - base, lag, self._alone, token)
            commands.append(new_merge(made, (merged,), len(self._workers), self.round))
            self.updates += 1
            self.total_steps += steps
            if samples:
                self._count_samples(samples)
            if self._by_total:
                self._end_if_full()
        elif finite:
            delta, mark = self._measured(record, event)
            record.buffered += 1
            self._buffer[delta] = record, event, mark
        else:
            self._drop_bad(record, event, commands)
        return record
