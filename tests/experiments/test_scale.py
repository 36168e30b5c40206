"""Scale in simulation: formulas by hand, models beside the controller, the tables' shape."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

import jax_ssp as ssp
from experiments.benchmarks.scale import costs, failures, models, page, published, saturation
from experiments.benchmarks.scale.clocks import DAY, Clocks, Failing
from experiments.benchmarks.scale.costs import Costs
from experiments.benchmarks.scale.fleet import Exchange, Fleet, failures_within, settled
from experiments.benchmarks.scale.learners import Program, learned
from jax_ssp.report.goodput import goodput

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
TEN = Clocks(seconds=10.0)
SPREAD = Clocks(seconds=60.0, spread=0.02, stalls=1e-3, stall=30.0)
OFTEN = Failing(mtbf=60.0 * 400, detect=30.0, back=600.0)
SAFE = Failing(mtbf=math.inf)


def fleet(policy, workers, exchange=None):
    how = () if exchange is None else (exchange,)
    return Fleet(policy, workers, itertools.repeat(10.0), *how)


# Formulas.


def test_the_formulas_give_what_is_computed_by_hand():
    failing = Failing(mtbf=1000.0, detect=10.0, pause=20.0, restart=90.0, stall=1.0)
    assert models.young(1.0, 200.0) == 20.0
    assert failing.among(10) == 100.0
    assert models.one_program(failing, 10) == 100 / (100 + 10 + 2 * 20)
    assert models.rigid(failing, 10, 9.0) == pytest.approx(9 / math.expm1(0.1) / (100 + 10 + 90))
    assert models.rigid(failing, 10) == models.rigid(failing, 10, math.sqrt(200.0))
    assert failing.of_chips(8).mtbf == 125.0


def test_a_rigid_program_loses_what_a_simulation_of_it_loses():
    failing = Failing(mtbf=100.0, detect=5.0, restart=25.0, stall=2.0)
    lives = np.random.default_rng(0).exponential(100.0, 200_000)
    kept = 20.0 * np.floor(lives / 22.0)
    assert models.rigid(failing, 1, 20.0) == pytest.approx(
        kept.sum() / (lives.sum() + 30.0 * len(lives)), rel=0.01
    )


def test_the_slowest_of_many_is_drawn_as_if_all_were():
    clocks, rng = Clocks(10.0, spread=0.1, stalls=0.01, stall=5.0), np.random.default_rng(0)
    each = clocks.draw(rng, 200_000)
    assert each.mean() == pytest.approx(10.05, rel=0.002)
    drawn = clocks.slowest(rng, 20_000, among=8)
    assert drawn.mean() == pytest.approx(each.reshape(-1, 8).max(axis=1).mean(), rel=0.003)


def test_shards_are_counted_as_by_hand():
    measured = Costs(event=4e-6, merge=1.5e9, link=3e9)
    assert measured.push(3e9) == 3.0
    assert saturation.busy(100_000, 1.0, measured.event) == pytest.approx(0.4)
    assert saturation.busy(64, 60.0, 3.0) == pytest.approx(3.2)
    assert saturation.shards_needed(64, 60.0, 3e9, measured) == 5  # 3.2 / 0.7
    assert saturation.shards_at_a_barrier(64, 60.0, 3e9, measured) == 43  # 64 * (3 + 1) / 6


# The real controller, with workers that fail.


def test_without_failures_all_time_is_useful():
    assert settled(fleet(ssp.SSP(3), 4).run(95.0, SAFE, iter(())))["useful"] == 1.0


def test_a_failure_is_waited_for_at_a_barrier_until_it_is_noticed():
    failing = Failing(mtbf=math.inf, detect=30.0, back=100.0)
    time = fleet(ssp.BSP(), 2).run(65.0, failing, iter([(5.0, 0)]))
    there = {kind: seconds for kind, seconds in time.by_worker[1].items() if seconds}
    assert there == {"useful": 40.0, "gate": 25.0}  # 0 to 10, then from 35 on
    assert time.by_worker[0]["lost"] == 35.0
    assert time.failures == 1


def test_under_a_bound_nobody_waits_for_it():
    failing = Failing(mtbf=math.inf, detect=30.0, back=100.0)
    time = fleet(ssp.SSP(3), 2).run(65.0, failing, iter([(5.0, 0)]))
    assert time.by_worker[1]["gate"] == 0.0


def test_who_has_failed_and_waits_is_lost_too_and_comes_back():
    failing = Failing(mtbf=math.inf, detect=3.0, back=4.0)
    time = Fleet(ssp.BSP(), 2, iter([10.0, 20.0, *[10.0] * 9])).run(
        58.0, failing, iter([(15.0, 0), (16.0, 0)])
    )
    assert time.failures == 1
    assert len(time.recoveries["failed"]) == 1
    assert time.by_worker[0]["useful"] >= 20.0


def test_a_fleet_does_what_a_run_in_virtual_time_does():
    crash = ssp.faults.Crash(worker=0, at=15.0, back_after=20.0)
    runtime = ssp.Virtual(3, ssp.delays.Constant(10.0), compute=False, faults=[crash])
    run = ssp.train(runtime=runtime, policy=ssp.SSP(1), num_clocks=20, progress=False)
    failing = Failing(mtbf=math.inf, detect=5.0, back=20.0)  # there it is known at a clock's end
    ours = fleet(ssp.SSP(1), 3).run(120.0, failing, iter([(15.0, 0)]))
    lost = {kind: goodput(run.tape).by_worker[0][kind] for kind in ("lost", "away")}
    assert {kind: ours.by_worker[0][kind] for kind in lost} == lost
    assert lost == {"lost": 10.0, "away": 20.0}


def test_what_a_shard_cannot_take_is_waited_for():
    slow = fleet(ssp.SSP(3), 8, Exchange(shard=2.5))  # 8 pushes are 20 seconds of it
    assert settled(slow.run(2000.0, SAFE, iter(())))["useful"] == pytest.approx(0.5, abs=0.01)
    idle = fleet(ssp.SSP(3), 8, Exchange(shard=0.5))
    assert settled(idle.run(2000.0, SAFE, iter(())))["useful"] > 0.93


def test_at_a_barrier_all_pushes_come_at_once():
    barrier = fleet(ssp.BSP(), 8, Exchange(shard=0.5))
    time = barrier.run(14.0 * 50, SAFE, iter(()))
    assert settled(time)["useful"] == pytest.approx(10 / 14, abs=1e-6)


def test_a_controller_that_is_slow_is_waited_for():
    slow = fleet(ssp.SSP(3), 8, Exchange(controller=2.5))
    assert settled(slow.run(2000.0, SAFE, iter(())))["useful"] == pytest.approx(0.5, abs=0.01)


def test_as_many_failures_are_drawn_as_are_expected():
    found = failures_within(1000.0, 10, Failing(mtbf=500.0), np.random.default_rng(0))
    assert len(found) == 20
    assert found == sorted(found)


# Models beside it.


def controlled(policy, workers, clocks):
    """Of so many clocks, by the real controller; the mean of three seeds."""
    found = []
    for seed in range(3):
        rng, until = np.random.default_rng(seed), clocks * SPREAD.seconds
        fails = iter(failures_within(until, workers, OFTEN, rng))
        time = Fleet(policy, workers, SPREAD.stream(rng)).run(until, OFTEN, fails)
        found.append(settled(time)["useful"])
    return np.mean(found)


@pytest.mark.parametrize("bound", [0, 3])
def test_arrays_come_to_what_the_controller_comes_to(bound):
    policy = ssp.SSP(bound) if bound else ssp.BSP()
    seeds = [models.bounded(bound, 24, SPREAD, OFTEN, 100, seed).goodput for seed in range(6)]
    assert np.mean(seeds) == pytest.approx(controlled(policy, 24, 100), abs=0.02)


def test_arrays_of_a_quorum_too():
    seeds = [models.quorum(0.9, 3.0, 24, SPREAD, OFTEN, 100, seed).goodput for seed in range(6)]
    policy = ssp.Quorum(k=21, grace=3.0)
    assert np.mean(seeds) == pytest.approx(controlled(policy, 24, 100), abs=0.02)


def test_without_anything_that_varies_arrays_are_exact():
    assert models.bounded(3, 5, TEN, SAFE, 20, 0) == (1.0, 0)
    assert models.bounded(0, 5, TEN, SAFE, 20, 0, since=10) == (1.0, 0)
    assert models.quorum(0.9, 3.0, 5, TEN, SAFE, 20, 0) == (1.0, 0)


def test_no_worker_does_more_than_it_could():
    clocks, often = Clocks(60.0, spread=0.02), Failing(mtbf=3000.0, detect=30.0, back=600.0)
    found = [models.bounded(3, 4, clocks, often, 3, seed).goodput for seed in range(200)]
    assert max(found) <= 1.0 + 1e-9


# Learners, and the shape of the tables.


def test_a_learner_takes_longer_by_what_its_failures_take():
    failing = Failing(mtbf=100.0, detect=10.0, pause=20.0)
    program, rng = Program(10, TEN, failing), np.random.default_rng(0)
    drawn = [program(0, clock, 24, rng) for clock in range(20_000)]
    assert np.mean(drawn) == pytest.approx(10 + 50, rel=0.03)  # one failure a clock
    found = learned(1, program, ssp.BSP(), steps=1, clocks=400)
    assert found.goodput == pytest.approx(1 / 6, rel=0.1)


def test_the_published_order_is_kept_and_its_figures_nearly():
    rows = list(published.rows([1_200_000], clocks=20, seed=0))
    kinds = {(row["kind"], row["learners"]): row["goodput"] for row in rows}
    order = [("rigid", 1), ("elastic", 1), ("decoupled", 2), ("decoupled", 8), ("decoupled", 16)]
    found = [kinds[each] for each in order]
    assert found == sorted(found)
    assert all(abs(row["goodput"] - row["published"]) < 0.06 for row in rows)
    for row in rows:
        if row["fitted"]:
            assert row["goodput"] == pytest.approx(row["published"], abs=0.005)


def test_at_ten_thousand_workers_rigid_is_least_and_learners_are_most():
    failing = failures.FAILING._replace(mtbf=365.25 * DAY / 8)
    rigid, elastic = failures.one_program(10_000, failing, 0)
    learners = failures.decoupled(10_000, 8, failing, 1, 0)
    assert rigid["goodput"] < elastic["goodput"] < learners["goodput"]


@pytest.mark.parametrize("table", ["goodput", "saturation", "costs"])
def test_the_page_shows_the_tables_of_the_results(table):
    assert getattr(page, table)() in PAGE.read_text()


PROGRAMS = {"costs": costs, "failures": failures, "published": published, "saturation": saturation}


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_quick_run_writes_its_table(name, tmp_path, capsys):
    program, file = PROGRAMS[name], tmp_path / "table.json"
    program.main(["--quick", "--json", str(file)])
    assert name in capsys.readouterr().out
    table = json.loads(file.read_text())
    assert table["rows"]
    for row in table["rows"]:
        assert list(row) == list(program.COLUMNS)
        numbers = [value for value in row.values() if not isinstance(value, str)]
        assert all(math.isfinite(number) and number >= 0 for number in numbers), row
        shares = [row[column] for column in row if column in ("goodput", "ssp", "bsp", "model")]
        assert all(share == "" or 0 <= share <= 1 + 1e-9 for share in shares), row
