"""What failures cost, by simulation and by formula."""

import math
import statistics

import pytest

from experiments.benchmarks.reliability.ettr import (
    COLUMNS,
    Costs,
    daly,
    failing_process,
    failing_workers,
    main,
    rows,
    young,
)

COSTS = Costs(60.0, 3.0, 0.3, 20.0, 3.0, 1.0, 1.0, 5.0)
FREE = Costs(60.0, 0.0, 0.0, 0.0, 0.0, 1e-9, 0.0, 0.0)
TWENTY = 20 * 60.0  # seconds


def test_the_formulas_are_those_of_the_papers():
    # Half an interval in twenty is lost; nothing else where nothing costs anything.
    assert young(FREE, TWENTY) == 1 - 30 / 1200
    assert daly(FREE, TWENTY) == pytest.approx(0.05 / math.expm1(0.05))
    assert young(COSTS, TWENTY) == pytest.approx(1 - 0.3 / 60 - 30 / 1200 - 23 / 1200)
    assert daly(COSTS, TWENTY) == pytest.approx(young(COSTS, TWENTY), abs=0.005)
    assert daly(COSTS, 1e9) == pytest.approx(60 / 60.3, abs=1e-4)


def test_without_failures_nothing_is_lost():
    for simulate in (failing_workers, failing_process):
        spent = simulate(COSTS, 2, 0.2, 1e12, seed=0)
        assert (spent.ettr, spent.failures) == (1.0, 0)


def test_a_run_that_falls_back_loses_what_the_formulas_say():
    lost = [1 - failing_process(FREE, 1, 6.0, TWENTY, seed).ettr for seed in range(4)]
    assert statistics.mean(lost) == pytest.approx(1 - daly(FREE, TWENTY), rel=0.25)


def test_a_lost_worker_costs_its_own_time_alone():
    alone, four = (failing_workers(COSTS, workers, 3.0, TWENTY, seed=1) for workers in (2, 4))
    assert alone.failures > 3
    assert 1 - four.ettr < 1 - alone.ettr < 0.01
    assert four.mttr == pytest.approx(6.0, abs=0.5)


@pytest.mark.slow
def test_an_mtbf_of_twenty_intervals_leaves_what_it_should():
    found = {row["fails"]: row for row in rows(COSTS, 4, 6.0, range(4), means=[20])}
    assert found["worker"]["ettr"] >= 0.97
    assert found["process"]["ettr"] >= 0.94
    assert list(found["worker"]) == [*COLUMNS, "of_seeds"]


@pytest.mark.slow
def test_the_program_prints_its_seeds(capsys):
    main(["--quick", "--first", "3"])
    said = capsys.readouterr().out
    assert "seeds [3, 4]" in said
    assert "daly" in said
