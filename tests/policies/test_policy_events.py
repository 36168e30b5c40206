"""Event by event, a run under a policy is what the paper of that policy says it is."""

import heapq
import random

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp.controller import (
    Controller,
    DeltaReady,
    Ends,
    Merge,
    Resumed,
    StartClock,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.policies.dssp import extra_clocks
from tests.helpers.papers import (
    ORACLES,
    PARAMS,
    RATE,
    TABLES,
    WORKERS,
    batches,
    clockwork,
    exponential,
    log_of,
    loss_fn,
    sgd,
    simulated,
    until_last_merge,
    virtual,
)

NAMES = [repr(policy) for policy, _, _ in ORACLES]


def merges_of(log):
    return [(now, *rest) for now, kind, *rest in log if kind == "merge"]


def rows_of(log, kind):
    return [row for row in log if row[1] == kind]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize(("policy", "oracle", "arguments"), ORACLES, ids=NAMES)
@pytest.mark.every(4)
def test_a_run_is_what_the_paper_says_event_by_event(policy, oracle, arguments, table):
    expected = simulated(oracle, arguments, table, versions=120)
    updates = sum(len(deltas) for _, deltas in merges_of(expected))
    result = clockwork(policy, table, max_updates=updates)
    log, last = log_of(result.tape), merges_of(expected)[-1][0]
    assert until_last_merge(log, last) == until_last_merge(expected, last)
    assert ssp.check_contract(result.tape).merged == updates


@pytest.mark.parametrize(
    ("policy", "kinds"),
    [
        (ssp.KSync(3), {"cancel"}),
        (ssp.KBatchSync(4), {"cancel"}),
        (ssp.BackupWorkers(1), {"drop"}),
        (ssp.Ringmaster(4), {"drop"}),
        (ssp.Ringmaster(4, stops=True), {"cancel"}),
        (ssp.Rennala(4), {"drop"}),
        (ssp.KAsync(3), set()),
        (ssp.Quorum(3, 0.5), set()),
    ],
    ids=repr,
)
def test_the_simulations_do_what_they_are_there_for(policy, kinds):
    """That both agree would say little if nothing were ever dropped or cancelled."""
    oracle, arguments = next(rest for other, *rest in ORACLES if other == policy)
    log = simulated(oracle, arguments, TABLES["heavy"], versions=120)
    assert {kind for _, kind, *_ in log} - {"start", "finish", "merge"} == kinds
    result = clockwork(policy, TABLES["heavy"], max_updates=200)
    report = ssp.check_contract(result.tape)
    assert report.dropped >= 10 * ("drop" in kinds)
    assert report.cancelled >= 10 * ("cancel" in kinds)
    log = log_of(result.tape)
    assert (report.cancelled, report.dropped) == (
        len(rows_of(log, "cancel")),
        len(rows_of(log, "drop")),
    )


def clock_by_clock(policy, workers=WORKERS, **others):
    return list(clockwork(policy, TABLES["heavy"][:workers], num_clocks=40, **others).tape)


SAME = [
    (ssp.KAsync(1), ssp.ASP()),
    (ssp.KBatchAsync(1), ssp.ASP()),
    (ssp.Softsync(WORKERS), ssp.ASP()),
    (ssp.FedBuff(1), ssp.ASP()),
    (ssp.Ringmaster(10_000), ssp.ASP()),
    (ssp.Ringmaster(10_000, stops=True), ssp.ASP()),
    (ssp.PSP(sample=0, bound=0), ssp.ASP()),
    (ssp.PSP(sample=2, bound=10_000), ssp.ASP()),
    (ssp.VAP(limit=1e-9), ssp.ASP()),  # nothing is computed: all norms are 0
    (ssp.PSP(sample=WORKERS - 1, bound=2), ssp.SSP(2)),
    (ssp.PSP(sample=WORKERS + 7, bound=1, seed=3), ssp.SSP(1)),
    (ssp.DSSP(0, 0), ssp.SSP(0)),
    (ssp.DSSP(3, 3), ssp.SSP(3)),
    (ssp.KBatchAsync(5), ssp.FedBuff(5)),
    (ssp.Softsync(2), ssp.KBatchAsync(WORKERS // 2)),
    (ssp.KSync(WORKERS), ssp.BSP()),
]


@pytest.mark.parametrize(("policy", "other"), SAME, ids=repr)
def test_at_the_ends_of_their_ranges_policies_are_others(policy, other):
    """The same starts, versions, merges and stops, at the same times."""
    assert clock_by_clock(policy) == clock_by_clock(other)


def test_psp_with_everybody_in_its_sample_starts_clocks_at_bound_0_when_bsp_does():
    """It merges on arrival, since it does not know that nobody reads before the barrier."""
    logs = (
        log_of(clockwork(policy, TABLES["heavy"], num_clocks=40).tape)
        for policy in (ssp.PSP(WORKERS, bound=0), ssp.BSP())
    )
    mine, theirs = (sorted(row[:4] for row in rows_of(log, "start")) for log in logs)
    assert mine == theirs


@pytest.mark.parametrize(
    "policy", [ssp.BackupWorkers(0), ssp.Quorum(WORKERS, 0.0), ssp.Quorum(WORKERS, 9.0)], ids=repr
)
def test_who_waits_for_all_starts_when_bsp_does(policy):
    """Only the order in a merge differs: of arrival here, of workers there."""
    entries, barrier = clock_by_clock(policy), clock_by_clock(ssp.BSP())
    for mine, theirs in zip(entries, barrier, strict=True):
        assert mine[:2] == theirs[:2]
        for one, other in zip(mine[2], theirs[2], strict=True):
            if type(one) is Merge:
                assert sorted(one.deltas) == sorted(other.deltas)
            else:
                assert one == other


# K-sync: each iteration takes its K-th smallest draw.


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_an_iteration_of_k_sync_takes_the_kth_smallest_of_its_draws(k, table):
    clocks = 60
    result = clockwork(ssp.KSync(k), table, num_clocks=clocks)
    draws = np.sort(table[:, :clocks], axis=0)[k - 1]
    times = [now for now, _ in merges_of(log_of(result.tape))]
    np.testing.assert_allclose(np.diff(times, prepend=0.0), draws, rtol=1e-9)
    report = ssp.check_contract(result.tape)
    assert (report.merged, report.cancelled) == (k * clocks, (WORKERS - k) * clocks)
    assert (report.max_staleness, report.dropped) == (0, 0)


# Backup workers.


@pytest.mark.parametrize("b", [0, 1, 2])
def test_who_is_lost_takes_nobodys_place_among_backup_workers(b):
    """Of four workers one pushes and is lost: the other three are waited for as before."""
    controller = Controller(ssp.BackupWorkers(b), ends=Ends(num_clocks=2))
    starts = [controller.handle(WorkerJoined(worker), 0.0)[0] for worker in range(4)]
    controller.handle(starts[0].finished(), 1.0)
    assert controller.handle(WorkerLost(0), 1.0) == []
    for start in starts[1 : 3 - b]:
        assert controller.handle(start.finished(), 2.0) == []
    merge, *_ = controller.handle(starts[3 - b].finished(), 3.0)
    assert [delta.worker for delta in merge.deltas] == list(range(4 - b))


@pytest.mark.parametrize("b", [0, 1, 2])
def test_backup_workers_wait_for_those_who_are_fast_for_good(b):
    speeds = np.array([1.0, 1.1, 1.25, 1.4, 50.3, 50.7])
    table = speeds[:, None] * np.ones(200)
    result = clockwork(ssp.BackupWorkers(b), table, max_updates=40 * (WORKERS - b))
    merges = merges_of(log_of(result.tape))
    assert {len(deltas) for _, deltas in merges} == {WORKERS - b}
    for before, (_, deltas) in enumerate(merges):
        assert {version for _, _, version in deltas} == {before}
    if b == 2:  # the two slow ones never come in time
        times = [now for now, _ in merges]
        np.testing.assert_allclose(times, 1.4 * np.arange(1, 41))
        assert {worker for _, deltas in merges for worker, _, _ in deltas} == {0, 1, 2, 3}
    for _, _, commands in result.tape:
        for command in commands:
            if type(command).__name__ == "Drop" and command.reason != (
                "the run has ended by max_updates"
            ):
                assert command.reason == "a newer version is there"


@pytest.mark.parametrize(("policy", "before"), [(ssp.BackupWorkers(1), 3), (ssp.Softsync(1), 4)])
def test_how_many_deltas_are_merged_follows_the_workers_who_are_there(policy, before):
    controller, starts = Controller(policy), {}
    for worker in range(4):
        (starts[worker],) = controller.handle(WorkerJoined(worker), 0.0)
    for worker in range(before - 1):
        commands = controller.handle(starts[worker].finished(), 1.0)
        assert not any(type(command) is Merge for command in commands)
    (merge,) = (c for c in controller.handle(WorkerLost(3), 2.0) if type(c) is Merge)
    assert [delta.worker for delta in merge.deltas] == list(range(before - 1))


# Rennala.


def test_rennala_drops_exactly_what_was_begun_before_the_version_changed():
    result = clockwork(ssp.Rennala(4), TABLES["heavy"], num_clocks=100)
    merges = [now for now, _ in merges_of(log_of(result.tape))]
    rows = result.schedule
    for row in rows[rows["finish"] < merges[-1]]:
        changed = any(row["start"] < merge < row["finish"] for merge in merges)
        assert (row["merge_version"] == -1) == changed


# Quorum.


def test_a_quorum_waits_for_its_grace_and_who_comes_later_is_in_the_next_merge():
    grace = 0.25
    table = np.array([[1.0], [1.125], [1.3125], [1.5]]) * np.ones(50)
    result = clockwork(ssp.Quorum(2, grace), table, num_clocks=6)
    (first, deltas), (second, others), *_ = merges_of(log_of(result.tape))
    assert first == 1.125 + grace  # the quorum and the window; the third is in it, the fourth not
    assert [worker for worker, _, _ in deltas] == [0, 1, 2]
    assert others[0][0] == 3
    # The fourth, at 1.5, and the first, 1.0 after the merge, are the next quorum.
    assert second == first + 1.0 + grace
    early = clockwork(ssp.Quorum(2, 100.0), table, num_clocks=6)
    assert [now for now, _ in merges_of(log_of(early.tape))] == [1.5 * n for n in range(1, 7)]


def test_a_window_apart_makes_each_delta_a_version_and_all_go_on_from_the_last():
    table = np.array([[1.0], [1.125], [1.3125], [1.5]]) * np.ones(50)
    result = clockwork(ssp.Quorum(2, 0.25, apart=True), table, num_clocks=6)
    whole = clockwork(ssp.Quorum(2, 0.25), table, num_clocks=6)
    assert ssp.check_contract(result.tape).complete
    # The same windows, at the same times, of the same deltas; one by one.
    windows = [
        (now, [delta[:2] for delta in deltas]) for now, deltas in merges_of(log_of(whole.tape))
    ]
    merges = [
        (now, [delta[:2] for delta in deltas]) for now, deltas in merges_of(log_of(result.tape))
    ]
    assert merges == [(now, [delta]) for now, deltas in windows for delta in deltas]
    first = result.schedule[result.schedule["clock"] == 0]
    assert sorted(first["merge_version"].tolist())[:3] == [1, 2, 3]
    second = result.schedule[(result.schedule["clock"] == 1) & (result.schedule["worker"] < 3)]
    assert set(second["base_version"]) == {3}
    # A server that ends within a window drops the rest of it.
    ended = ssp.train(
        policy=ssp.Quorum(2, 9.0, apart=True),
        runtime=ssp.Virtual(4, ssp.delays.Constant(), compute=False),
        max_updates=3,
    )
    assert ssp.check_contract(ended.tape).complete
    with pytest.raises(TypeError, match=r"`Quorum\(apart=\.\.\.\)` must be True or False"):
        ssp.Quorum(apart=1)


# DSSP.

PUSHES = st.integers(0, 60)


@settings(deadline=None)
@given(PUSHES, st.integers(0, 12), PUSHES, st.integers(0, 40), st.integers(0, 7))
def test_extra_clocks_is_the_closest_pair_of_predicted_pushes(last, step, slow, slow_step, most):
    pairs = [
        (abs(last + r * step - slow - k * slow_step), r)
        for k in range(1, most + 2)
        for r in range(most + 1)
    ]
    assert extra_clocks(last, step, slow, slow_step, most=most) == min(pairs)[1]


@pytest.mark.parametrize(("lower", "upper"), [(0, 3), (1, 8), (3, 3), (2, 20)])
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.every(4)
def test_dssp_is_between_its_two_bounds(table, lower, upper):
    result = clockwork(ssp.DSSP(lower, upper), table, num_clocks=150)
    report = ssp.check_contract(result.tape)
    assert lower <= report.max_start_lag <= upper
    early, starts, late = (
        np.sort(clockwork(policy, table, num_clocks=150).schedule, order=["worker", "clock"])
        for policy in (ssp.SSP(upper), ssp.DSSP(lower, upper), ssp.SSP(lower))
    )
    assert (early["start"] <= starts["start"]).all()
    assert (starts["start"] <= late["start"]).all()


def test_dssp_does_go_beyond_its_lower_bound():
    table = np.array([[1.0], [1.0], [4.6]]) * np.ones(400)
    table[1] += 1e-3
    result = clockwork(ssp.DSSP(1, 9), table, num_clocks=60)
    assert ssp.check_contract(result.tape).max_start_lag > 1


# PSP.


def waiting_share(policy, table, clocks=150):
    """The share of clocks that do not start when the one before has ended."""
    rows = clockwork(policy, table, num_clocks=clocks).schedule
    rows = rows[np.lexsort((rows["clock"], rows["worker"]))].reshape(len(table), clocks)
    return float((rows["start"][:, 1:] > rows["finish"][:, :-1]).mean())


@pytest.mark.parametrize("bound", [0, 2])
def test_psp_waits_more_the_larger_its_sample(bound):
    table = TABLES["exponential"]
    shares = [waiting_share(ssp.PSP(sample, bound), table) for sample in range(WORKERS)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[1] > 0
    everybody = clockwork(ssp.PSP(WORKERS - 1, bound), table, num_clocks=150).schedule
    all_ssp = clockwork(ssp.SSP(bound), table, num_clocks=150).schedule
    order = [np.sort(rows[["worker", "clock", "start"]]) for rows in (everybody, all_ssp)]
    np.testing.assert_array_equal(*order)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_start_under_psp_satisfies_the_bound_with_the_sample_that_was_drawn(seed):
    sample, bound = 2, 1
    result = clockwork(ssp.PSP(sample, bound, seed), TABLES["heavy"], num_clocks=80)
    done, pending, late = [0] * WORKERS, {}, 0
    for now, event, commands in result.tape:
        if type(event) is DeltaReady:
            done[event.worker] += 1
            if done[event.worker] < 80:
                pending[event.worker] = now
        for command in commands:
            if type(command) is StartClock and command.clock:
                worker, clock = command.worker, command.clock
                others = [other for other in range(WORKERS) if other != worker]
                drawn = random.Random(f"{seed}, {worker}, {clock}").sample(others, sample)
                assert all(clock - done[other] <= bound for other in drawn)
                late += pending.pop(worker) < now
        for worker in pending:  # and who waits, waits for somebody in its sample
            others = [other for other in range(WORKERS) if other != worker]
            drawn = random.Random(f"{seed}, {worker}, {done[worker]}").sample(others, sample)
            assert any(done[worker] - done[other] > bound for other in drawn)
    assert late > 20
    again = clockwork(ssp.PSP(sample, bound, seed), TABLES["heavy"], num_clocks=80)
    assert list(again.tape) == list(result.tape)


def test_another_seed_of_psp_draws_other_samples():
    one, other = (
        list(clockwork(ssp.PSP(2, 1, seed), TABLES["heavy"], num_clocks=40).tape) for seed in (0, 1)
    )
    assert one != other


# VAP.


def unread(norms, merged_in, held, worker):
    """The largest sum of a worker's norms that somebody else, who runs, has not read."""
    return max(
        (
            sum(
                norm
                for (owner, clock), norm in norms.items()
                if owner == worker and merged_in[owner, clock] > version
            )
            for other, version in held.items()
            if other != worker
        ),
        default=0.0,
    )


def check_vap(entries, limit):
    """Every start is within the limit, and whoever waits exceeds it; gives who had to wait."""
    norms, merged_in, held, waiting, waits = {}, {}, {}, set(), 0
    for _, event, commands in entries:
        if type(event) is DeltaReady:
            norms[event[:2]] = event.norm
            del held[event.worker]
            waiting.add(event.worker)
        for command in commands:
            kind = type(command).__name__
            if kind == "Merge":
                merged_in.update({delta[:2]: command.version for delta in command.deltas})
            elif kind == "StartClock":
                assert not unread(norms, merged_in, held, command.worker) > limit
                waiting.discard(command.worker)
                held[command.worker] = command.version
            elif kind == "StopWorker":
                waiting.discard(command.worker)
        for worker in waiting:
            assert unread(norms, merged_in, held, worker) > limit
        waits += len(waiting)
    return waits


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [0.25, 2.0, 6.5, 1e9])
def test_vap_keeps_what_others_have_not_read_within_its_limit(limit, seed):
    rng = random.Random(seed)
    controller, running, entries = Controller(ssp.VAP(limit), ends=Ends(num_clocks=30)), [], []

    def handle(event, now):
        commands = controller.handle(event, now)
        entries.append((now, event, commands))
        for command in commands:
            if type(command) is StartClock:
                delay = rng.choice([0.5, 1.0, 1.0, 7.0])
                heapq.heappush(running, (now + delay, len(entries), command))

    for worker in range(5):
        handle(WorkerJoined(worker), 0.0)
    while running:
        now, _, start = heapq.heappop(running)
        norm = rng.choice([0.0, 0.25, 1.0, 2.0, 4.0])
        handle(start.finished(norm=norm), now)
    assert controller.done
    assert (check_vap(entries, limit) > 0) == (limit < 1e9)


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), 1e300])
def test_vap_hangs_on_no_norm_and_does_not_wait_for_one_that_is_not_a_number(norm):
    controller, running = Controller(ssp.VAP(1.0), ends=Ends(num_clocks=5)), []
    for worker in range(3):
        running += controller.handle(WorkerJoined(worker), 0.0)
    finished = waited = 0
    while running:
        start = running.pop(finished % len(running))
        commands = controller.handle(start.finished(norm=norm), 0.0)
        running += [command for command in commands if type(command) is StartClock]
        finished += 1
        waited += sum(controller.phase(worker).value == "waiting" for worker in range(3))
    assert controller.done
    assert finished == 15
    assert (waited == 0) == np.isnan(norm)


def test_vap_waits_for_nobody_where_nobody_runs_though_a_delta_is_in_no_version():
    controller = Controller(ssp.VAP(1.0), ends=Ends(max_updates=1))
    first = [start for worker in (0, 1) for start in controller.handle(WorkerJoined(worker), 0.0)]
    for start in reversed(first):  # the second one is dropped, as the run has ended
        controller.handle(start.finished(norm=5.0), 1.0)
    assert controller.done
    started = controller.handle(Resumed(1, None, 10, None, None), 2.0)
    assert [(start.worker, start.clock) for start in started] == [(0, 1), (1, 1)]


def test_vap_holds_in_training_by_the_norms_that_the_run_found():
    result = ssp.train(
        ssp.make_step(loss_fn, optax.sgd(RATE)),
        params=PARAMS,
        data=batches,
        policy=ssp.VAP(limit=0.3),
        runtime=virtual(exponential(4)),
        num_clocks=40,
    )
    entries = list(result.tape)
    assert check_vap(entries, 0.3) > 0
    norms = [event.norm for _, event, _ in entries if type(event) is DeltaReady]
    log = log_of(result.tape)
    points = sgd(log, weight=lambda merged: 1 / 4)
    np.testing.assert_allclose(result.params["w"], points[-1], rtol=1e-4, atol=1e-5)
    assert min(norms) > 0
