"""Policies that break the contract are caught, each for what is wrong with it; others are not."""

import itertools
import random
import re
from dataclasses import dataclass, field

import pytest

import jax_ssp as ssp
from jax_ssp.policies import Decision, Wait
from jax_ssp.policies.base import remembered
from jax_ssp.testing import check_policy
from tests.controller.test_machine import POLICIES

COUNT = itertools.count()


@pytest.mark.parametrize("policy", dict.fromkeys(POLICIES), ids=repr)
@pytest.mark.every(5)
def test_a_policy_that_keeps_the_contract_passes(policy):
    check_policy(policy, schedules=6, seed=1000)


@dataclass(frozen=True)
class Remembers(ssp.Policy):
    """As a policy should: what it remembers is each run's own."""

    pushes: list = remembered(list)

    def pushed(self, view, delta, norm):
        self.pushes.append(delta)

    def admit(self, view, worker):
        return len(self.pushes) % 5 > 0 or view.clock(worker) == view.min_clock


def test_what_is_remembered_as_it_should_be_is_no_matter():
    check_policy(Remembers())


class Eager(ssp.SSP):
    def admit(self, view, worker):
        return True


class Early(ssp.SSP):
    """Looks at clocks, not at what the version covers."""

    def admit(self, view, worker):
        return view.clock(worker) - view.min_clock <= self.bound

    def ready(self, view):
        some = tuple(view.buffered)[:3]
        return Decision(merge=some if len(some) == 3 else ())


@dataclass(frozen=True)
class Stale(ssp.Policy):
    def guaranteed_staleness(self, num_workers):
        return 1


@dataclass(frozen=True)
class Loses(ssp.Policy):
    def ready(self, view):
        return Decision(drop=tuple(view.buffered))


@dataclass(frozen=True)
class Twofold(ssp.Policy):
    def ready(self, view):
        return Decision(merge=tuple(view.buffered) * 2)


@dataclass(frozen=True)
class Backwards(ssp.Policy):
    def ready(self, view):
        some = tuple(view.buffered)
        return Decision(merge=some[::-1] if len(some) > 2 else ())


@dataclass(frozen=True)
class Never(ssp.Policy):
    def admit(self, view, worker):
        return view.clock(worker) < 2


@dataclass(frozen=True)
class Late(ssp.Policy):
    """Would admit at once whoever it tells to wait."""

    def admit(self, view, worker):
        if view.clock(worker) - view.min_clock < 2:
            return True
        return Wait(coverage=view.clock(worker) + 1)


@dataclass(frozen=True)
class Chance(ssp.Policy):
    def adopts(self, view, worker):
        return random.random() < 0.5


@dataclass(frozen=True)
class Shared(ssp.Policy):
    """A list that all runs share."""

    seen: list = field(default_factory=list, compare=False, repr=False)

    def adopts(self, view, worker):
        self.seen.append(worker)
        return len(self.seen) % 3 == 0


@dataclass(frozen=True)
class Global(ssp.Policy):
    def local_steps(self, view, worker):
        return 1 + next(COUNT) % 2


LAST = []


@dataclass(frozen=True)
class Alone(ssp.Policy):
    """Right as long as there is one run in the process."""

    def local_steps(self, view, worker):
        same = LAST[-1:] == [id(view)]
        LAST.append(id(view))
        return 1 + same


@dataclass(frozen=True)
class NoSteps(ssp.Policy):
    def local_steps(self, view, worker):
        return 0


@dataclass(frozen=True)
class Cancels(ssp.Policy):
    def ready(self, view):
        running = [each for each in view.workers if view.is_running(each)]
        return Decision(tuple(view.buffered), cancel=running[:1], reason="because")


@dataclass(frozen=True)
class Fails(ssp.Policy):
    def ready(self, view):
        return Decision(merge=(view.buffered[0],))


BROKEN = {
    Eager(1): "starts beyond the bound|further ahead than it promises",
    Early(1): "reads what covers less than the bound",
    Stale(): "staler than the policy promises",
    Loses(): "PolicyError: .*reason",
    Twofold(): "PolicyError: ",
    Backwards(): "PolicyError: .*|settled before an older one",
    Never(): "PolicyError: ",
    Late(): "`Wait` ends too late",
    Chance(): "two controllers that heard the same",
    Global(): "two controllers that heard the same",
    Alone(): "two controllers that heard the same",
    NoSteps(): "PolicyError: |at least 1 step",
    Cancels(): "PolicyError: .*cancels",
    Fails(): "TypeError: ",
}


def checked_again(policy, seed):
    for _ in range(50 if isinstance(policy, Chance) else 1):  # coins may fall alike twice
        check_policy(policy, schedules=1, seed=seed)


@pytest.mark.parametrize("policy", BROKEN, ids=repr)
def test_a_policy_that_breaks_the_contract_is_caught_and_seen_again(policy):
    with pytest.raises(AssertionError) as caught:
        check_policy(policy)
    said = str(caught.value)
    first, *_, last = said.splitlines()
    assert first.startswith(f"{policy!r} breaks the contract, in the schedule of seed ")
    assert re.search(BROKEN[policy], first), said
    seed = int(re.search(r"schedules=1, seed=(\d+)\)$", last)[1])
    with pytest.raises(AssertionError) as again:
        checked_again(policy, seed)
    if not isinstance(policy, Chance | Global | Alone):  # whose seed alone does not decide
        assert str(again.value) == said


def test_a_list_that_all_runs_share_is_caught():
    with pytest.raises(AssertionError, match="two controllers that heard the same"):
        check_policy(Shared())


class NoFields(ssp.Policy):
    size: int = 3


@dataclass(frozen=True)
class Listed(ssp.Policy):
    sizes: list = field(default_factory=lambda: [1, 2])


@dataclass(frozen=True)
class Changes(ssp.Policy):
    size: int = 3

    def __post_init__(self):
        object.__setattr__(self, "size", self.size + 1)


@dataclass(frozen=True)
class HalfBound(ssp.Policy):
    @property
    def guaranteed_bound(self):
        return 0.5


@dataclass(frozen=True)
class Compiles(ssp.Policy):
    def usual_merge(self, num_workers):
        return num_workers // 2


@dataclass(frozen=True)
class RefusesAll(ssp.Policy):
    def check(self, num_workers):
        raise ValueError("no")


UNDECLARED = {
    NoFields: "has no fields size: write `@dataclass",
    Listed: "cannot be hashed",
    Changes: "made again from its fields it is another",
    HalfBound: "guaranteed_bound` must be None or a count",
    Compiles: r"usual_merge\(1\)` must be at least 1: 0",
    RefusesAll: "refuses every number",
}


@pytest.mark.parametrize("kind", UNDECLARED, ids=lambda kind: kind.__name__)
def test_what_is_declared_wrongly_is_caught(kind):
    with pytest.raises(AssertionError, match=UNDECLARED[kind]):
        check_policy(kind())


@pytest.mark.parametrize("given", [ssp.SSP, 3, None, "SSP"])
def test_what_is_no_policy_is_a_type_error(given):
    with pytest.raises(TypeError, match=r"`check_policy\(policy=...\)` must be a Policy"):
        check_policy(given)
