"""What is made of the runs of a grid and of a sweep."""

import math

from experiments.study.grid import differences, table


def run(name, seed, **metrics):
    return {"name": name, "seed": seed, "summary": {"metrics": metrics}}


def test_the_best_rate_is_one_at_which_no_seed_diverged():
    losses = {(0.1, 0): 0.3, (0.1, 1): 0.5, (0.2, 0): 0.1, (0.2, 1): math.nan}
    runs = [
        {"name": "a", "learning_rate": rate, "seed": seed, "test_loss": loss}
        for (rate, seed), loss in losses.items()
    ]
    assert table(runs) == [{"name": "a", "0.1": 0.4, "0.2": None, "best": 0.1}]


def test_no_rate_is_best_where_all_diverged():
    runs = [{"name": "a", "learning_rate": 0.1, "seed": 0, "test_loss": math.nan}]
    assert table(runs) == [{"name": "a", "0.1": None, "best": None}]


def test_differences_are_of_equal_seeds():
    ends = {("a", 0): (1.0, 0.5), ("a", 1): (3.0, 0.5), ("b", 1): (2.0, 0.75), ("b", 0): (2.0, 0.5)}
    runs = [
        run(name, seed, test_loss=loss, test_accuracy=accuracy)
        for (name, seed), (loss, accuracy) in ends.items()
    ]
    (row,) = differences(runs, [("a", "b")])
    assert row["test_loss"] == "+0.0000 ± 1.4142"
    assert row["better test_loss"] == 1
    assert row["test_accuracy"] == "-0.1250 ± 0.1768"
    assert row["better test_accuracy"] == 0


def test_a_seed_that_diverged_is_named():
    runs = [
        run(name, seed, test_loss=loss, test_accuracy=0.5)
        for name, loss in (("a", None), ("b", 1.0))
        for seed in (0, 1)
    ]
    (row,) = differences(runs, [("a", "b")])
    assert row["test_loss"] == "a seed diverged"
    assert row["test_accuracy"] == "+0.0000 ± 0.0000"
