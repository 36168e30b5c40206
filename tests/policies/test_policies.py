"""Every policy keeps the rules of the house; the built-in ones do what their papers say."""

import dataclasses
import heapq
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp.controller import (
    Controller,
    Ends,
    StartAhead,
    StartClock,
    StopRequested,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.policies import ALL_POLICIES, ASP, BSP, SSP, KSync, Policy, Quorum, Wait, as_schedule
from jax_ssp.policies.rules import merge_at_barrier
from jax_ssp.testing import check_policy

QUICK = settings(deadline=None)


@pytest.mark.parametrize("kind", ALL_POLICIES, ids=lambda kind: kind.__name__)
def test_every_policy_keeps_the_rules_of_the_house(kind):
    policy = kind()
    assert policy == kind()
    check_policy(policy, schedules=10)
    for field in dataclasses.fields(policy):
        assert not field.repr or f"{field.name}=" in repr(policy)
    assert repr(policy).startswith(f"{kind.__name__}(")
    assert kind.__doc__
    assert "Example:" in kind.__doc__
    assert "Reference:" in kind.__doc__


def test_no_policy_is_in_the_table_twice():
    assert len({kind.__name__ for kind in ALL_POLICIES}) == len(ALL_POLICIES)


def test_numbers_of_numpy_are_as_good_as_pythons():
    policy = SSP(np.int64(2))
    assert policy == SSP(2)
    assert type(policy.bound) is int
    quorum = Quorum(np.int32(2), np.float32(0.5))
    assert (type(quorum.k), type(quorum.grace)) == (int, float)
    assert quorum == Quorum(2, 0.5)
    assert type(as_schedule(np.int64(4)).h) is int


@pytest.mark.parametrize(
    ("policy", "bound"),
    [(ASP(), None), (BSP(), 0), (SSP(), 3), (SSP(0), 0), (SSP(7), 7), (SSP(2, "lazy"), 2)],
    ids=repr,
)
def test_guaranteed_bound(policy, bound):
    assert policy.guaranteed_bound == bound


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bound": -1}, ValueError, r"`SSP\(bound=...\)` must be non-negative, got -1\."),
        ({"bound": 1.5}, TypeError, r"`SSP\(bound=...\)` must be an integer, got 1\.5\."),
        ({"bound": np.float64(2)}, TypeError, r"`SSP\(bound=...\)` must be an integer, got"),
        ({"bound": True}, TypeError, r"`SSP\(bound=...\)` must be an integer, got True\."),
        ({"adopt": "x"}, ValueError, r"`SSP\(adopt=...\)` must be \"eager\" or \"lazy\", got 'x'"),
    ],
)
def test_ssp_says_what_is_wrong_with_its_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        SSP(**arguments)


def test_a_wait_is_a_no():
    assert not Wait()
    assert not Wait(coverage=3)
    assert not Wait(version=2)


# Schedules.


@QUICK
@given(st.integers(0, 2**32), st.sampled_from(["eager", "lazy"]))
def test_ssp_at_bound_0_is_bsp(seed, adopt):
    rng = random.Random(seed)
    one, other = (
        Controller(BSP(), ends=Ends(num_clocks=8)),
        Controller(SSP(0, adopt), ends=Ends(num_clocks=8)),
    )
    running = {}

    def both(event):
        commands = one.handle(event, 0.0)
        assert other.handle(event, 0.0) == commands
        running.update({c.worker: c for c in commands if isinstance(c, StartClock)})

    live = set()
    for _ in range(60):
        worker = rng.randrange(5)
        if worker in running and rng.random() < 0.9:
            start = running.pop(worker)
            both(start.finished())
        elif worker not in live:
            live.add(worker)
            both(WorkerJoined(worker))
        elif rng.random() < 0.2:
            live.remove(worker)
            running.pop(worker, None)
            both(WorkerLost(worker))
        elif rng.random() < 0.02:
            both(StopRequested("enough"))


@QUICK
@given(st.permutations(range(5)))
def test_a_barrier_merges_in_the_same_order_whoever_comes_first(arrivals):
    controller = Controller(BSP())
    starts = [controller.handle(WorkerJoined(worker), 0.0)[0] for worker in range(5)]
    for worker in arrivals:
        merge, *_ = controller.handle(starts[worker].finished(), 1.0) or [None]
    assert [delta.worker for delta in merge.deltas] == [0, 1, 2, 3, 4]
    assert {delta.staleness for delta in merge.deltas} == {0}


def alone(policy, clocks):
    """What one worker alone reads: (version, pending) of each clock."""
    controller, reads = Controller(policy), []
    (start,) = controller.handle(WorkerJoined(0), 0.0)
    for _ in range(clocks):
        reads.append((start.version, start.pending))
        _, start = controller.handle(start.finished(), 1.0)
    return reads


@dataclasses.dataclass(frozen=True)
class Bounded(Policy):
    """Says its bound alone."""

    bound: int = 2

    @property
    def guaranteed_bound(self):
        return self.bound


@dataclasses.dataclass(frozen=True)
class Keeps(SSP):
    """Adopts in every other clock."""

    def adopts(self, view, worker):
        return view.clock(worker) % 2 == 0


@pytest.mark.parametrize("bound", [0, 1, 3])
def test_a_policy_that_says_its_bound_alone_keeps_it(bound):
    def tape(policy):
        delay = ssp.delays.Exponential(1.0)
        clockwork = ssp.Virtual(4, delay, compute=False)
        return list(ssp.train(policy=policy, runtime=clockwork, num_clocks=20).tape)

    assert tape(Bounded(bound)) == tape(SSP(bound))


@dataclasses.dataclass(frozen=True)
class KeepsAndSaysSo(Keeps):
    """What it reads may be older than what it is made of allows."""

    @property
    def guaranteed_bound(self):
        return None


@dataclasses.dataclass(frozen=True)
class NoPromise(BSP):
    """Says nothing of what it keeps, and merges as it did."""

    guaranteed_bound = None

    def ready(self, view):
        return merge_at_barrier(view)


@dataclasses.dataclass(frozen=True)
class NoPromiseOfSync(KSync):
    guaranteed_bound = None


@pytest.mark.parametrize(
    ("promises", "like"),
    [(KeepsAndSaysSo(1), Keeps(1)), (NoPromise(), BSP()), (NoPromiseOfSync(2), KSync(2))],
)
def test_what_a_subclass_promises_does_not_change_whom_it_admits(promises, like):
    def tape(policy):
        slow = ssp.delays.Straggler(ssp.delays.Constant(1.0), worker=0, factor=4.0)
        clockwork = ssp.Virtual(4, slow, compute=False)
        return list(ssp.train(policy=policy, runtime=clockwork, num_clocks=12).tape)

    assert tape(promises) == tape(like)


def test_what_is_made_of_ssp_may_say_when_to_adopt():
    assert [version for version, _ in alone(Keeps(5), clocks=6)] == [0, 0, 2, 2, 4, 4]


def test_lazy_reads_keep_a_snapshot_until_it_is_too_old():
    kept = [(0, ()), (0, (0,)), (0, (0, 1)), (3, ()), (3, (3,)), (3, (3, 4)), (6, ())]
    assert alone(SSP(2, "lazy"), clocks=7) == kept
    assert alone(SSP(2, "eager"), clocks=7) == [(clock, ()) for clock in range(7)]


def simulate(policy, durations, grants=None):
    """Start and finish of every (worker, clock), where worker i takes durations[i][c] for clock c.

    Merging takes no time. Durations are whole numbers, so that sums of them are exact. With a
    dictionary for `grants` clocks are granted ahead, and the moments put there.
    """
    controller = Controller(
        policy, ends=Ends(num_clocks=len(durations[0])), grant_ahead=grants is not None
    )
    starts, finishes, underway = {}, {}, []

    def handle(event, now):
        for command in controller.handle(event, now):
            if isinstance(command, StartClock):
                worker, clock = command.worker, command.clock
                starts[worker, clock] = now
                heapq.heappush(underway, (now + durations[worker][clock], worker, command))
            if isinstance(command, StartAhead):
                grants[command[:2]] = now

    for worker in range(len(durations)):
        handle(WorkerJoined(worker), 0)
    while underway:
        now, worker, start = heapq.heappop(underway)
        finishes[worker, start.clock] = now
        handle(start.finished(), now)
    assert controller.done
    return starts, finishes


DURATIONS = st.tuples(st.integers(1, 6), st.integers(1, 12)).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(1, 9), min_size=size[1], max_size=size[1]),
        min_size=size[0],
        max_size=size[0],
    )
)


@QUICK
@given(DURATIONS, st.integers(0, 4), st.sampled_from(["eager", "lazy"]))
def test_a_clock_starts_exactly_when_the_bound_allows(durations, bound, adopt):
    starts, finishes = simulate(SSP(bound, adopt), durations)
    workers, clocks = range(len(durations)), range(len(durations[0]))
    assert len(starts) == len(finishes) == len(workers) * len(clocks)
    for (worker, clock), start in starts.items():
        own = finishes.get((worker, clock - 1), 0)
        others = [finishes.get((other, clock - bound - 1), 0) for other in workers]
        assert start == max(own, *others)


@QUICK
@given(DURATIONS, st.integers(0, 4), st.sampled_from(["eager", "lazy"]))
def test_a_clock_is_granted_with_the_start_of_the_one_before(durations, bound, adopt):
    grants = {}
    starts, finishes = simulate(SSP(bound, adopt), durations, grants)
    assert (starts, finishes) == simulate(SSP(bound, adopt), durations)
    last = len(durations[0]) - 1
    assert grants == {(w, clock + 1): at for (w, clock), at in starts.items() if clock != last}


@QUICK
@given(DURATIONS)
def test_asp_never_waits_and_bsp_waits_for_everybody(durations):
    _, alone = simulate(ASP(), durations)
    _, together = simulate(BSP(), durations)
    last = len(durations[0]) - 1
    assert [alone[worker, last] for worker in range(len(durations))] == [*map(sum, durations)]
    steps = [max(clock) for clock in zip(*durations, strict=True)]
    assert max(together[worker, last] for worker in range(len(durations))) == sum(steps)


@QUICK
@given(DURATIONS, st.integers(0, 3))
def test_a_larger_bound_is_never_slower(durations, bound):
    _, tight = simulate(SSP(bound), durations)
    _, loose = simulate(SSP(bound + 1), durations)
    assert all(loose[which] <= tight[which] for which in tight)
