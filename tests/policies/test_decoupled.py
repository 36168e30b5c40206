"""Decoupled DiLoCo: quorum, a window that adapts, weights by tokens, late deltas, late workers."""

from dataclasses import dataclass

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.controller import (
    Controller,
    Drop,
    Merge,
    SetTimer,
    StartClock,
    TimerFired,
    WorkerJoined,
    WorkerLost,
    check_contract,
)
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import Pushed
from jax_ssp.testing import check_policy
from jax_ssp.testing.driving import promises, random_run


@dataclass(frozen=True)
class OfEach(ssp.LocalSteps):
    """So many steps for each worker."""

    h: tuple[int, ...] = (9, 4, 3, 5)

    @property
    def usual(self):
        return (max(self.h),)

    def steps(self, view, worker):
        return self.h[worker]


class Learners:
    """Workers 1, 2 and 3, of 4, 3 and 5 steps a clock, under a controller; time goes by hand."""

    def __init__(self, policy, *workers):
        self.controller = Controller(policy, local_steps=OfEach())
        self.tape, self.running, self.commands = Tape(promises(policy)), {}, []
        for worker in workers:
            self.take(WorkerJoined(worker), 0.0)

    def take(self, event, now):
        self.commands = self.controller.handle(event, now)
        self.tape.append(now, event, self.commands)
        for command in self.commands:
            if isinstance(command, StartClock):
                self.running[command.worker] = command
        return [d for c in self.commands if isinstance(c, Merge) for d in c.deltas]

    def push(self, worker, tokens, now=0.0, **report):
        start = self.running.pop(worker)
        return self.take(start.finished(tokens=tokens, samples=1, **report), now)

    def weights(self, worker, tokens, now=0.0):
        """By worker, of the merge that this push makes."""
        return {d.worker: d.weight for d in self.push(worker, tokens, now)}

    def check(self):
        return check_contract(self.tape)


def together(quorum=2, **more):
    return ssp.Decoupled(quorum=quorum, gamma=0.0, **more)


# The golden rounds of the published ledger.


def test_submissions_of_one_version_weigh_by_tokens_squared_over_steps():
    learners = Learners(together(), 1, 2)
    assert not learners.push(1, 100)
    assert learners.weights(2, 60) == {1: 0.6756756756756757, 2: 0.32432432432432434}
    assert learners.check().max_staleness == 0


def test_a_submission_that_is_carried_over_weighs_half():
    learners = Learners(together(quorum=1), 1, 3)
    assert learners.weights(1, 100) == {1: 1.0}
    assert not learners.push(3, 50)  # late: it is not a quorum of this round
    assert learners.running[3].version == 1, "who is late does not wait"
    assert learners.weights(1, 120) == {3: 0.06493506493506493, 1: 0.935064935064935}
    assert learners.check().max_staleness == 1


def test_the_first_round_of_a_joiner_weighs_nothing():
    learners = Learners(together(quorum=1), 1)
    learners.push(1, 100)
    learners.take(WorkerJoined(2), 0.0)
    assert learners.running[2].version == 1
    assert not learners.push(2, 60)  # nor is it of the quorum
    assert 2 not in learners.running, "but it is in time, and waits"
    assert learners.weights(1, 100) == {2: 0.0, 1: 1.0}
    learners.push(1, 100)
    assert learners.weights(1, 100) == {1: 1.0}
    assert learners.controller.version == 4
    learners.check()


def test_the_second_round_of_a_joiner_weighs_as_any():
    learners = Learners(together(quorum=2), 1, 2)
    learners.push(1, 100)
    learners.push(2, 60)
    learners.take(WorkerLost(2), 0.0)
    learners.take(WorkerJoined(2), 0.0)  # its first stay was another worker
    assert not learners.push(1, 100)
    assert not learners.running.get(1)
    assert learners.weights(2, 60) == {1: 1.0, 2: 0.0}  # nobody else can come
    learners.push(1, 100)
    assert learners.weights(2, 60) == {1: 0.6756756756756757, 2: 0.32432432432432434}
    learners.check()


def test_where_all_weigh_nothing_the_merge_moves_nothing():
    learners = Learners(together(quorum=1), 1)
    learners.push(1, 100)
    learners.take(WorkerLost(1), 0.0)
    learners.take(WorkerJoined(1), 0.0)
    assert learners.weights(1, 100) == {1: 0.0}
    assert learners.weights(1, 100) == {1: 1.0}
    learners.check()


def test_what_is_later_than_may_be_carried_is_dropped_with_the_reason():
    learners = Learners(together(quorum=1), 1, 3)
    for _ in range(2):
        learners.push(1, 100)
    assert not learners.push(3, 50)
    (drop,) = [command for command in learners.commands if isinstance(command, Drop)]
    assert (drop.worker, drop.reason) == (3, "more than 1 rounds late")
    assert learners.running[3].version == 2
    assert learners.weights(1, 100) == {1: 1.0}
    report = learners.check()
    assert (report.dropped, report.staleness_bound) == (1, 1)


def test_more_rounds_may_be_carried_each_at_half_the_weight():
    learners = Learners(together(quorum=1, carry=2), 1, 3)
    for _ in range(2):
        learners.push(1, 100)
    learners.push(3, 50)
    assert learners.weights(1, 120) == {3: 125 / 3725, 1: 3600 / 3725}
    assert learners.check().max_staleness == 2


def test_where_tokens_are_not_counted_samples_are_and_else_steps():
    def weights(*counts):
        pushes = [Pushed(n, 0, 0, 0, *each, 0, 0) for n, each in enumerate(counts)]
        return ssp.Decoupled().weights(None, pushes)

    assert weights((4, 0, 100), (3, 9, 60)) == [2500 / 3700, 1200 / 3700]
    assert weights((4, 100, 0), (3, 60, 0)) == [2500 / 3700, 1200 / 3700]
    assert weights((4, 0, 0), (3, 0, 0)) == [4 / 7, 3 / 7]
    assert weights((4, 0, 100), (3, 9, 0)) == [1.0, 0.0]


# The window.


def timer_of(learners):
    return next((c.at for c in learners.commands[::-1] if isinstance(c, SetTimer)), None)


@pytest.mark.parametrize(
    ("gamma", "tau", "sync", "deadline"),
    [
        (1.0, 8, 0.0, 3.0 + 8 * 0.5 - 1.0),  # the first waited 1 s for the second
        (0.5, 8, 0.0, 3.0 + 0.5 * (8 * 0.5 - 1.0)),
        (0.5, 8, 1.0, 3.0 + 0.5 * (8 * 0.5 - 1.0 - 1.0)),
        (1.0, 2, 0.0, None),  # a quorum that came as late as the steps last
        (1.0, 8, 5.0, None),
        (0.0, 8, 0.0, None),
    ],
)
def test_the_window_is_a_share_of_the_time_that_costs_nobody_anything(gamma, tau, sync, deadline):
    policy = ssp.Decoupled(quorum=2, gamma=gamma, tau=tau, sync=sync)
    learners = Learners(policy, 1, 2, 3)
    assert not learners.push(1, 100, now=2.0)  # 4 steps in 2 s
    assert timer_of(learners) is None
    merged = learners.push(2, 60, now=3.0)  # 3 steps in 3 s: slower
    assert bool(merged) == (deadline is None)
    if deadline is None:
        return
    assert timer_of(learners) == deadline
    merged = learners.push(3, 50, now=3.5)
    assert len(merged) == 3, "nobody else can come, so nothing is waited for"
    assert timer_of(learners) is None
    learners.check()


def test_the_window_does_not_grow_with_what_travels():
    network = ssp.Network(latency=2.0)
    runtime = ssp.Virtual(2, ssp.delays.PerWorker((1.0, 3.0)), compute=False, network=network)
    policy = ssp.Decoupled(gamma=1.0, tau=2)
    run = ssp.train(runtime=runtime, policy=policy, local_steps=4, overlap=2, num_clocks=2)
    timers = [(now, c.at) for now, _, cs in run.tape for c in cs if isinstance(c, SetTimer)]
    assert timers[0] == (2 + 4 + 2, 8 + 2)  # steps of 1 second, whatever the way takes


def test_the_window_ends_by_its_timer():
    learners = Learners(ssp.Decoupled(quorum=1, gamma=1.0, tau=6), 1, 2, 3)
    learners.push(1, 100, now=2.0)
    assert timer_of(learners) == 5.0
    learners.push(2, 60, now=4.0)  # of 4/3 s a step; the window stays as it was set
    assert len(learners.take(TimerFired(5.0), 5.0)) == 2
    assert not learners.push(3, 50, now=6.0)
    assert learners.running[3].version == 1
    learners.check()


def test_a_quorum_of_more_than_are_left_is_all_of_them():
    learners = Learners(together(quorum=3), 1, 2, 3)
    learners.push(1, 100)
    learners.push(2, 60)
    assert len(learners.take(WorkerLost(3), 0.0)) == 2
    learners.check()


# In runs.


@pytest.mark.parametrize(
    "policy",
    [ssp.Decoupled(3, 1.0, 4), ssp.Decoupled(2, 0.0, 0, 0.5, 2), ssp.Decoupled(carry=0)],
    ids=repr,
)
def test_it_keeps_the_contract_whatever_happens(policy):
    check_policy(policy, schedules=15, seed=300)
    run = random_run(policy, seed=9, workers=5, events=250, losses=True, resumes=True)
    report = check_contract(run.drain())
    assert report.max_staleness <= policy.carry
    for merge in (c for _, _, commands in run.tape for c in commands if isinstance(c, Merge)):
        total = sum(delta.weight for delta in merge.deltas)
        assert total == pytest.approx(1.0) or total == 0.0


def test_a_fast_worker_is_held_up_by_none_and_a_slow_one_is_merged_still():
    runtime = ssp.Virtual(4, ssp.delays.PerWorker((1.0, 1.0, 1.0, 1.5)), compute=False)
    run = ssp.train(policy=together(quorum=3), runtime=runtime, num_clocks=30)
    rows = run.schedule
    fast = rows[rows["worker"] == 0]
    assert fast["finish"].max() == 30.0
    slow = rows[rows["worker"] == 3]
    carried = slow[slow["staleness"] == 1]
    assert len(carried) > 5
    assert np.all(carried["weight"][:-1] == 0.5 / 3.5)
    barrier = ssp.train(policy=ssp.BSP(), runtime=runtime, num_clocks=30)
    assert barrier.seconds == 45.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"quorum": 0}, ValueError, r"`Decoupled\(quorum=...\)` must be at least 1, got 0"),
        ({"gamma": -1}, ValueError, r"`Decoupled\(gamma=...\)` must be non-negative, got -1"),
        ({"tau": 1.5}, TypeError, r"`Decoupled\(tau=...\)` must be an integer, got 1\.5"),
        ({"sync": float("nan")}, ValueError, r"`Decoupled\(sync=...\)` must be"),
        ({"carry": -1}, ValueError, r"`Decoupled\(carry=...\)` must be non-negative, got -1"),
    ],
)
def test_it_says_what_is_wrong_with_its_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ssp.Decoupled(**arguments)


def test_a_quorum_of_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"`Decoupled\(quorum=5\)` waits for more deltas than 4"):
        ssp.train(policy=ssp.Decoupled(5), runtime=ssp.Virtual(4, compute=False), num_clocks=1)
