"""Whether a policy keeps the contract under any schedule: for ours, and for one of your own."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import sys
from collections.abc import Callable
from typing import Any, ClassVar, get_origin

from jax_ssp.checks import instance, integer
from jax_ssp.controller import Controller, Ends, WorkerJoined, check_contract
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.policies import Policy
from jax_ssp.runtimes.plan import describe
from jax_ssp.testing.driving import Run, drive
from jax_ssp.testing.require import require

LONGEST = 5000  # events in which a run that has an end must reach it
ROWS = 6  # of a schedule that an error shows


def check_policy(policy: Policy, *, schedules: int = 50, seed: int = 0) -> None:
    """Check that a policy is one: as it is declared, and under random schedules.

    In every schedule workers join, finish clocks in any order, are lost, come back and push late,
    timers fire, and clocks are granted ahead. Each answer is judged against the bare facts: nobody
    starts beyond the promised bound, nothing staler than promised is merged, every delta is merged
    once or dropped for a reason, somebody can always go on, and a run with an end reaches it. Two
    controllers that hear the same answer the same, at the same time and later: what a policy
    remembers is in `remembered` fields, and it asks neither the clock nor chance.

    Args:
        policy: a value of the class, such as `MyPolicy()`; try several.
        schedules: how many to try.
        seed: of the first; each has the next number.

    Raises:
        AssertionError: if it is none; what is wrong, in which schedule, and how to see it again.
        TypeError, ValueError: if what is given is no policy, or no number.

    Example:
        >>> import jax_ssp as ssp
        >>> check_policy(ssp.SSP(bound=2), schedules=3)
        >>> class Eager(ssp.SSP):  # promises the bound, and lets everybody start
        ...     def admit(self, view, worker):
        ...         return True
        >>> try:
        ...     check_policy(Eager(1))
        ... except AssertionError as error:
        ...     print(str(error).splitlines()[0][:72])
        Eager(bound=1, adopt='eager') breaks the contract, in the schedule of se
    """
    policy = instance("check_policy(policy=...)", policy, Policy, "a Policy, such as `MyPolicy()`")
    schedules = integer("check_policy(schedules=...)", schedules, least=1)
    seed = integer("check_policy(seed=...)", seed, least=0)
    check_declared(policy)
    for each in range(seed, seed + schedules):
        check_schedule(policy, each)


def check_declared(policy: Policy) -> None:
    """Check what a policy says of itself, before it decides anything."""
    kind = type(policy)
    _check_dataclass(policy)
    _check_described(policy)
    bound = policy.guaranteed_bound
    good = bound is None or (type(bound) is int and bound >= 0)
    require(good, f"`{kind.__name__}.guaranteed_bound` must be None or a count (clocks)", bound)
    for name in ("cancels", "reads_own", "waits_for_own", "needs_norms"):
        value = getattr(policy, name)
        require(type(value) is bool, f"`{kind.__name__}.{name}` must be True or False", value)
    for workers in _numbers(policy):
        usual, stalest = policy.usual_merge(workers), policy.guaranteed_staleness(workers)
        good = type(usual) is int and usual >= 1
        require(good, f"`{kind.__name__}.usual_merge({workers})` must be at least 1", usual)
        good = stalest is None or (type(stalest) is int and stalest >= 0)
        what = f"`{kind.__name__}.guaranteed_staleness({workers})` must be None or a count"
        require(good, what, stalest)


def _check_dataclass(policy: Policy) -> None:
    kind = type(policy)
    frozen = getattr(kind, "__dataclass_params__").frozen  # noqa: B009, of every dataclass
    require(frozen, f"`{kind.__name__}` must be frozen: write `@dataclass(frozen=True)` above it")
    known = {column.name for column in dataclasses.fields(policy)}
    hints = vars(kind).get("__annotations__", {})
    own = {name for name, hint in hints.items() if "ClassVar" not in str(hint)}
    own = {name for name in own if get_origin(hints[name]) is not ClassVar}
    missing = ", ".join(sorted(own - known))
    what = f"`{kind.__name__}` has no fields {missing}: write `@dataclass(frozen=True)` above it"
    require(not missing, what)
    try:
        same = hash(policy) == hash(copy.deepcopy(policy))
    except TypeError as error:
        raise AssertionError(
            f"`{kind.__name__}` cannot be hashed ({error}): what a policy remembers goes in fields "
            "made by `remembered`, and a list among its settings should be a tuple"
        ) from error
    require(same and policy == copy.deepcopy(policy), f"a copy of {policy!r} is not equal to it")


def _check_described(policy: Policy) -> None:
    """That a run's folder can say which policy it was, and that it can be made from that again."""
    kind, said = type(policy), describe(policy)
    require(json.loads(json.dumps(said)) == said, "a description is changed by JSON", said)
    require(describe(copy.deepcopy(policy)) == said, "a copy is described otherwise", said)
    given = {c.name: getattr(policy, c.name) for c in dataclasses.fields(policy) if c.init}
    again = kind(**given)
    require(again == policy, "made again from its fields it is another", again, policy)
    if "<locals>" in kind.__qualname__ or kind.__module__ not in sys.modules:
        return  # of a test, say; such a class has no name elsewhere
    named: Any = sys.modules[kind.__module__]
    for name in kind.__qualname__.split("."):
        named = getattr(named, name, None)
    what = f"{kind.__module__}:{kind.__qualname__} is another class than that of {policy!r}"
    require(named is None or named is kind, what)


def _numbers(policy: Policy) -> list[int]:
    """Numbers of workers that the policy can run."""
    fitting: list[int] = []
    for workers in range(1, 17):
        try:
            policy.check(workers)
        except ValueError:
            continue
        fitting.append(workers)
    require(bool(fitting), f"`{type(policy).__name__}.check` refuses every number up to 16")
    return fitting


class Twice(Run):
    """A run that two controllers decide at the same time, which must agree at every event."""

    def __init__(self, policy: Policy, ends: Ends, workers: int, ahead: bool) -> None:
        self.make: Callable[[], Controller] = lambda: Controller(
            policy, ends=ends, grant_ahead=ahead
        )
        self._other = self.make()
        limits = {name: most for name, most in dataclasses.asdict(ends).items() if most}
        super().__init__(policy, workers=workers, grant_ahead=ahead, **limits)

    def handle(self, event: Event, after: float = 0.0) -> list[Command]:
        commands = super().handle(event, after)
        _same(event, self._other.handle(event, self.now), commands)
        self._ask_again()
        return commands

    def _ask_again(self) -> None:
        """Who waits would be refused now as well: it is not waiting for a word that came."""
        controller = self.controller
        if self.model.ended:
            return
        for worker in self.model.waiting():
            policy = copy.deepcopy(controller.policy)
            refused = not policy.admit(controller, worker)
            require(
                refused, f"worker {worker} waits, and would be admitted: its `Wait` ends too late"
            )

    def to_the_end(self, rng: random.Random) -> None:
        """Let everybody finish what there is to do."""
        for _ in range(LONGEST):
            running, timer = self.model.running(), self.model.timer
            if timer is not None and (not running or rng.random() < 0.3):
                self.fire_timer()
            elif running:
                self.finish(rng.choice(running), 0.25)
            else:
                break
        ended = self.controller.done
        require(ended, f"after {LONGEST} events more, nobody is at the end of the run")
        self.tape.complete = True


def check_schedule(policy: Policy, seed: int) -> None:
    """Check a policy under the one schedule of a seed; see `check_policy`."""
    rng = random.Random(seed)
    workers = rng.choice([each for each in _numbers(policy) if each <= 5] or _numbers(policy)[:1])
    ahead, losses = rng.random() < 0.5 and not policy.cancels, rng.random() < 0.6
    ends = rng.choice(
        (Ends(), Ends(num_clocks=rng.randint(1, 6)), Ends(max_updates=rng.randint(1, 25)))
    )
    run: Twice | None = None
    try:
        run = Twice(policy, ends, 0, ahead)
        for worker in range(workers):
            run.handle(WorkerJoined(worker))
        spoiled = rng.choice((0.0, 0.0, 0.1, 0.6))
        about = {"workers": workers, "events": rng.randint(5, 45), "losses": losses}
        drive(run, rng, **about, resumes=losses, spoiled=spoiled)
        if run.model.ends == Ends():
            run.drain()
        else:
            run.to_the_end(rng)
        _check_whole(run)
    except Exception as error:
        rows = [] if run is None else list(run.tape)[-ROWS:]
        raise AssertionError(
            f"{policy!r} breaks the contract, in the schedule of seed {seed}: "
            f"{_in_words(error)}\n"
            f"  {workers} workers, {ends}, {'granted ahead' if ahead else 'not ahead'}, "
            f"{'with' if losses else 'without'} losses; its last rows:\n"
            + "".join(f"    {now:g} s {event}\n      -> {made}\n" for now, event, made in rows)
            + f"  See it again: check_policy({policy!r}, schedules=1, seed={seed})"
        ) from error


def _check_whole(run: Twice) -> None:
    """The tape of a run proves itself, and a controller made later gives the same answers."""
    model = run.model
    report = check_contract(run.tape)
    settled = len(model.stalenesses) + model.dropped
    require(report.merged + report.dropped == settled, "its tape counts other deltas", report)
    later = run.make()
    for now, event, commands in run.tape:
        _same(event, later.handle(event, now), commands)


def _same(event: Event, here: list[Command], there: list[Command]) -> None:
    what = (
        "two controllers that heard the same give different answers; what it remembers must be in "
        "`remembered` fields, and neither time nor chance be asked"
    )
    require(here == there, what, event, here, there)


def _in_words(error: Exception) -> str:
    said = str(error)
    return said if isinstance(error, AssertionError) else f"{type(error).__name__}: {said}"
