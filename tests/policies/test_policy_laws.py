"""Closed forms: how long an iteration takes on average, and how stale what is merged is.

Means are of independent iterations (delays are memoryless), so a mean of n of them is off by its
standard error, sigma / sqrt(n), with sigma known. Four of those are allowed, which chance passes
once in 16 000 times (and seeds are fixed); sigma is at most the mean, so a law that is wrong by 4 %
is seen in the slow tests, of 8000 iterations, and one that is wrong by 16 % in the quick ones.
"""

import numpy as np
import pytest

import jax_ssp as ssp
from tests.helpers.papers import clockwork, exponential, heavy, log_of, unequal

RATE = 2.0  # mu: clocks a second of a worker


def harmonic(n):
    return sum(1 / i for i in range(1, n + 1))


def first_of(k, workers):
    """Mean and variance of the k-th smallest of so many exponential delays."""
    gaps = [1 / (RATE * i) for i in range(workers - k + 1, workers + 1)]
    assert sum(gaps) == pytest.approx((harmonic(workers) - harmonic(workers - k)) / RATE)
    return sum(gaps), sum(gap**2 for gap in gaps)


def kth_of_a_stream(k, workers):
    """The same of the k-th arrival where all go on all the time: Poisson of rate P mu."""
    return k / (workers * RATE), k / (workers * RATE) ** 2


def fresh_of_a_stream(batch, workers):
    """The same of the last of a batch, where only those count who began after the last merge.

    The next to arrive is anybody, so is up to date with probability f / P, where f are; else it is
    from then on. A merge leaves f = 1. (With a batch of 1 this is the birthday problem.)
    """
    first, second = {}, {}  # moments of how many arrivals are left, by (f, deltas missing)
    for missing in range(batch + 1):
        for fresh in range(workers, 0, -1):
            ways = [
                (fresh / workers, (fresh, missing - 1)),
                (1 - fresh / workers, (fresh + 1, missing)),
            ]
            ways = [(chance, then) for chance, then in ways if chance and missing]
            mean = sum(chance * first[then] for chance, then in ways)
            first[fresh, missing] = (1 + mean) * bool(missing)
            square = sum(chance * second[then] for chance, then in ways)
            second[fresh, missing] = (1 + 2 * mean + square) * bool(missing)
    arrivals, rate = first[1, batch], workers * RATE
    variance = second[1, batch] - arrivals**2
    return arrivals / rate, (arrivals + variance) / rate**2


def iteration_times(policy, workers, merges, seed):
    runtime = ssp.Virtual(workers, ssp.delays.Exponential(1 / RATE), seed=seed, compute=False)
    updates = merges * policy.usual_merge(workers)
    tape = ssp.train(policy=policy, runtime=runtime, max_updates=updates).tape
    times = [now for now, kind, *_ in log_of(tape) if kind == "merge"]
    assert len(times) == merges
    return np.diff(times)  # not the first, at which all begin


LAWS = [
    # Dutta et al. 2018, Lemma 1: E[T] of K-sync is that of the K-th order statistic of P.
    *((ssp.KSync(k), workers, first_of) for k, workers in [(1, 8), (4, 8), (8, 8), (3, 5)]),
    # K-async: the K who have pushed wait for each other, so with memoryless delays it is the same.
    *((ssp.KAsync(k), workers, first_of) for k, workers in [(1, 8), (4, 8), (8, 8), (3, 5)]),
    # K-batch-sync and K-batch-async: nobody ever idles. K may be more than P.
    *((ssp.KBatchSync(k), workers, kth_of_a_stream) for k, workers in [(1, 8), (4, 8), (12, 5)]),
    *((ssp.KBatchAsync(k), workers, kth_of_a_stream) for k, workers in [(1, 8), (4, 8), (12, 5)]),
    *((ssp.FedBuff(k), workers, kth_of_a_stream) for k, workers in [(10, 8)]),
    *((ssp.Rennala(k), workers, fresh_of_a_stream) for k, workers in [(1, 8), (4, 8), (12, 5)]),
    (ssp.Softsync(2), 8, lambda n, workers: kth_of_a_stream(workers // n, workers)),
    (ssp.BSP(), 8, lambda _, workers: first_of(workers, workers)),
    (ssp.ASP(), 8, lambda _, workers: kth_of_a_stream(1, workers)),
]


def argument(policy):
    return next((value for value in vars(policy).values() if isinstance(value, int)), None)


@pytest.mark.parametrize(
    ("seed", "merges"), [(0, 600), pytest.param(1, 8_000, marks=[pytest.mark.slow])]
)
@pytest.mark.parametrize(("policy", "workers", "law"), LAWS, ids=[f"{p!r} {w}" for p, w, _ in LAWS])
@pytest.mark.every(4)
def test_the_mean_time_of_an_iteration_is_that_of_the_closed_form(
    policy, workers, law, seed, merges
):
    times = iteration_times(policy, workers, merges, seed)
    mean, variance = law(argument(policy), workers)
    assert abs(times.mean() - mean) <= 4 * np.sqrt(variance / len(times))
    # The spread too: a variance of n samples is off by less than 5 / sqrt(n) of itself (the
    # kurtosis of all these is at most that of an exponential, 9, so its deviation is sqrt(8 / n)).
    assert abs(times.var() / variance - 1) <= 4 * np.sqrt(8 / len(times))


@pytest.mark.parametrize("policy", [ssp.KSync(2), ssp.KAsync(2), ssp.KBatchAsync(4)], ids=repr)
def test_a_policy_is_faster_than_the_barrier_by_the_ratio_of_their_laws(policy):
    fast, slow = (iteration_times(each, 8, 500, seed=3).mean() for each in (policy, ssp.BSP()))
    law = kth_of_a_stream if isinstance(policy, ssp.KBatchAsync) else first_of
    ratio = law(policy.k, 8)[0] / first_of(8, 8)[0]
    assert fast / slow == pytest.approx(ratio, rel=0.15)


# Staleness. Each merge makes all who run, but those who are yet to start on it, one version staler;
# so the mean over c deltas a merge is (those who run meanwhile) / c, however long clocks take. What
# differs from that is at the two ends of a run.

MEANS = [
    (ssp.ASP(), 7, 6),
    (ssp.ASP(), 16, 15),
    (ssp.KBatchAsync(3), 7, 6 / 3),
    (ssp.FedBuff(10), 8, 7 / 10),
    (ssp.KAsync(2), 8, (8 - 2) / 2),
    (ssp.KAsync(4), 8, (8 - 4) / 4),
    (ssp.KAsync(8), 8, 0),
    (ssp.KSync(3), 8, 0),
    (ssp.KBatchSync(5), 8, 0),
    (ssp.BackupWorkers(2), 8, 0),
    (ssp.Rennala(5), 8, 0),
]


@pytest.mark.parametrize("table", [exponential, heavy, unequal], ids=lambda table: table.__name__)
@pytest.mark.parametrize(
    ("policy", "workers", "mean"), MEANS, ids=[f"{p!r} {w}" for p, w, _ in MEANS]
)
@pytest.mark.every(23)
def test_the_mean_staleness_is_who_runs_meanwhile_over_the_size_of_a_merge(
    policy, workers, mean, table
):
    if workers > 8:
        table = exponential
    result = clockwork(policy, table(workers, 4000), max_updates=4000)
    rows = result.schedule
    merged = rows["staleness"][rows["merge_version"] >= 0]
    # What runs when the run ends is not merged: at most that of all workers is missing in the sum.
    missing = workers * (result.version - rows["base_version"][-100:].min()) / len(merged)
    assert mean - missing <= merged.mean() <= mean + 1e-9
    if table is exponential:
        assert merged.mean() == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("jitter", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("n", [1, 2, 5, 10, 30])
@pytest.mark.every(11)
def test_n_softsync_has_a_mean_staleness_of_about_n_and_at_most_2_n(n, jitter):
    """Zhang et al. 2016, section 3.1, for lambda = 30 learners of about the same speed.

    By the law above the mean is 29 / (30 / n), which is n - n / 30.
    """
    workers = 30
    seconds = np.random.default_rng(n).uniform(1 - jitter, 1 + jitter, size=(workers, 400))
    result = clockwork(ssp.Softsync(n), seconds, max_updates=workers * 200)
    sizes = {len(row[2]) for row in log_of(result.tape) if row[1] == "merge"}
    assert sizes == {workers // n}
    staleness = result.schedule["staleness"]
    assert staleness.max() <= 2 * n
    assert staleness.mean() == pytest.approx(n - n / workers, rel=0.01)


@pytest.mark.parametrize("workers", [2, 7, 16])
def test_of_workers_in_rotation_each_delta_is_as_stale_as_there_are_others(workers):
    seconds = np.ones((workers, 60)) + np.arange(workers)[:, None] * 1e-6
    rows = clockwork(ssp.ASP(), seconds, num_clocks=50).schedule
    assert set(rows["staleness"][rows["clock"] > 0]) == {workers - 1}


# Speed in theory: what these policies are for.


def test_ringmaster_and_rennala_do_not_depend_on_how_slow_the_slowest_is():
    """Half of the workers are nearly dead; without a bound what they push is ancient."""
    speeds = np.array([1.0, 1.01, 1.02, 1.03, 99.5, 199.3, 399.7, 801.1])
    table = speeds[:, None] * np.ones(3000)
    stale = clockwork(ssp.ASP(), table, max_updates=4000).schedule["staleness"].max()
    assert stale > 1000
    for policy in (ssp.Ringmaster(8), ssp.Ringmaster(8, stops=True), ssp.Rennala(4)):
        result = clockwork(policy, table, max_updates=4000)
        assert result.schedule["staleness"].max() <= policy.guaranteed_staleness(8) <= 7
        # 4 deltas a second from those who are alive; all of them, but what Rennala drops of late
        # ones at each merge.
        assert result.seconds <= 1000 * 1.03 * (1 if isinstance(policy, ssp.Ringmaster) else 2)
