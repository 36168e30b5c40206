"""A study picks rates on some seeds, reports others, runs nothing twice, can be interrupted."""

import json
import math

import pytest

from experiments.study.study import Study, crossed, marked, refined

CELLS = crossed(workers=[1, 8], label=["BSP", "ASP"])
BEST = {"BSP": 1.0, "ASP": 0.1}


class Runs:
    """Runs whose loss is smallest at the rate in `BEST`; keeps what was run."""

    def __init__(self, diverged=(), stops=None):
        self.made, self.diverged, self.stops = [], diverged, stops

    def __call__(self, cell, rate, seed):
        if len(self.made) == self.stops:
            raise KeyboardInterrupt
        self.made.append((cell["workers"], cell["label"], rate, seed))
        bad = (rate, seed) in self.diverged
        return {"last": math.nan if bad else abs(math.log(rate / BEST[cell["label"]]))}


def study(run=None, cells=CELLS, rates=(0.1, 0.3, 1.0), seeds=(0, 1), **fields):
    return Study(cells, rates, seeds, run or Runs(), **fields)


def test_settings_and_methods_are_crossed():
    assert [tuple(cell.values()) for cell in CELLS] == [
        (1, "BSP"),
        (1, "ASP"),
        (8, "BSP"),
        (8, "ASP"),
    ]


def test_a_rate_is_picked_on_other_seeds_than_those_reported():
    run = Runs()
    rows = study(run).rows()
    assert {seed for _, _, rate, seed in run.made if rate == 0.3} == {2, 3, 4}
    swept = [row for row in rows if row.get("kind") == "swept"]
    assert [(row["workers"], row["label"], row["rate"]) for row in swept] == [
        (cell["workers"], cell["label"], rate) for cell in CELLS for rate in (0.1, 0.3, 1.0)
    ]
    reported = [row for row in rows if row not in swept]
    assert [(row["label"], row["rate"], row["seed"]) for row in reported] == [
        (cell["label"], BEST[cell["label"]], seed) for cell in CELLS for seed in (0, 1)
    ]


def test_a_seed_that_is_named_for_both_is_run_once():
    run = Runs()
    rows = study(run, tuning=(0,)).rows()
    assert len(run.made) == len(set(run.made)) == 4 * (3 + 1)
    assert len(rows) == 4 * (3 + 2)


def test_a_rate_at_which_a_seed_diverged_is_not_the_best():
    tuned = study(Runs({(1.0, 3)})).tune(CELLS[0])
    assert tuned.best == 0.3
    assert tuned.scores[1.0] == math.inf
    assert tuned.scores[0.3] == pytest.approx(math.log(1 / 0.3))


def test_the_score_is_the_median_over_the_seeds():
    losses = {0: 1.0, 1: 5.0, 2: 2.0}
    tuned = study(lambda cell, rate, seed: {"last": losses[seed]}, tuning=(0, 1, 2)).tune(CELLS[0])
    assert set(tuned.scores.values()) == {2.0}
    assert tuned.best == 0.1  # the first of equals


def test_where_all_diverged_the_first_rate_is_reported():
    every = {(rate, seed) for rate in (0.1, 0.3, 1.0) for seed in range(5)}
    assert study(Runs(every)).tune(CELLS[0]).best == 0.1


def test_a_best_rate_at_the_edge_says_so():
    tuned = [study().tune(cell).marked for cell in CELLS[:2]]
    assert tuned == ["1 (largest tried)", "0.1 (smallest tried)"]
    assert study(rates=(0.3, 1.0, 3.0)).tune(CELLS[0]).marked == "1"
    assert marked(0.5, [0.5, 0.5]) == "0.5"


def test_another_column_may_be_the_loss():
    column = study(lambda cell, rate, seed: {"steps": None if rate < 1 else seed}, loss="steps")
    gathered = column.gathered(CELLS[0], "steps")
    assert gathered["rate"] == 1.0
    assert gathered["steps"] == [0, 1]
    assert gathered["swept"][:2] == [{"rate": 0.1, "steps": None}] * 2


def test_all_runs_of_a_cell_are_those_tried_and_then_the_others():
    one = study(seeds=(0, 1, 2), tuning=(0,))
    rows = one.every(one.tune(CELLS[0]), also=(0.3,))
    assert [(row["rate"], row["seed"]) for row in rows] == [
        *((rate, 0) for rate in (0.1, 0.3, 1.0)),
        *((rate, seed) for rate in (0.3, 1.0) for seed in (1, 2)),
    ]


def test_a_grid_runs_every_rate_on_every_seed_reported():
    run = Runs()
    rows = study(run).grid()
    assert [(row["rate"], row["seed"], row["workers"], row["label"]) for row in rows] == [
        (rate, seed, *cell.values())
        for rate in (0.1, 0.3, 1.0)
        for seed in (0, 1)
        for cell in CELLS
    ]
    assert len(run.made) == 24


@pytest.mark.parametrize("power", [5, 0, -3, 3.4])
def test_the_best_rate_is_refined_until_it_lies_between_two_that_are_worse(power):
    found = refined(lambda rate: abs(math.log2(rate) + power), (1 / 16, 1 / 4, 1), most=8)
    best = min(found, key=found.get)
    assert abs(math.log2(best) + power) < 0.5
    assert {best / 2, best * 2} <= set(found)
    assert len(found) <= 9


def test_no_more_is_refined_than_was_asked_for():
    assert list(refined(lambda rate: rate, (1.0,), most=0)) == [1.0]
    assert min(refined(lambda rate: rate, (1.0,), most=2)) == 0.25


def test_an_interrupted_study_goes_on_where_it_was(tmp_path):
    kept = tmp_path / "new" / "runs.jsonl"
    first, second = Runs(stops=7), Runs()
    with pytest.raises(KeyboardInterrupt):
        study(first, kept=kept).rows()
    with kept.open("a") as file:
        file.write('["cut sho')  # as if it had been killed while it wrote
    assert study(second, kept=kept).rows() == study().rows()
    assert not set(first.made) & set(second.made)
    assert first.made + second.made == unbroken(study)
    third = Runs(stops=0)
    assert study(third, kept=kept).rows() == study().rows()


def unbroken(make):
    run = Runs()
    make(run).rows()
    return run.made


def test_a_diverged_run_is_kept_as_it_was(tmp_path):
    kept = tmp_path / "runs.jsonl"
    for run in (Runs({(1.0, 3)}), Runs(stops=0)):
        tuned = study(run, kept=kept).tune(CELLS[0])
        assert (tuned.best, tuned.scores[1.0]) == (0.3, math.inf)


def test_rows_of_another_study_are_not_taken_for_its_own(tmp_path):
    kept = tmp_path / "runs.jsonl"
    study(kept=kept, about={"commit": "one"}).rows()
    with pytest.raises(ValueError, match=r"is of another study .*one.* remove it"):
        study(kept=kept, about={"commit": "two"})


def test_it_tells_what_it_runs_and_nothing_twice():
    told = []
    one = study(tuning=(0,), each=told.append)
    one.rows()
    one.rows()
    assert [(row["rate"], row["seed"]) for row in told[:4]] == [
        (0.1, 0),
        (0.3, 0),
        (1.0, 0),
        (1.0, 1),
    ]
    assert len(told) == 16
    json.dumps(told)


@pytest.mark.parametrize(
    "fields", [{"cells": []}, {"rates": ()}, {"seeds": ()}, {"tuning": ()}], ids=str
)
def test_where_there_is_nothing_to_run_it_is_said(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=rf"`Study\({name}=\.\.\.\)` must"):
        study(**fields)
