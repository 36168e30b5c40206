"""What is made of the runs of a grid and of a sweep."""

import dataclasses
import json
import math

import pytest

import jax_ssp as ssp
from experiments import delay_compensation, staleness_scaling
from experiments.study.grid import differences, rates_of, table, tune
from experiments.study.study import Tuned
from experiments.workloads.linear import LeastSquares


def run(name, seed, **metrics):
    return {"name": name, "seed": seed, "summary": {"metrics": metrics}}


def tuned(losses):
    """Of one method: losses by rate."""
    best = min(losses, key=losses.get)
    return Tuned({"name": "a"}, best, losses, [])


def test_a_table_has_the_loss_of_each_rate_and_marks_a_best_one_at_the_edge():
    rows = table([tuned({0.1: 0.4, 0.2: math.inf}), tuned({0.1: 0.4, 0.2: 0.3, 0.3: 0.4})])
    assert rows == [
        {"name": "a", "0.1": 0.4, "0.2": None, "best": "0.1 (smallest tried)"},
        {"name": "a", "0.1": 0.4, "0.2": 0.3, "0.3": 0.4, "best": "0.2"},
    ]


def test_no_rate_is_best_where_all_diverged():
    assert table([tuned({0.1: math.inf})]) == [{"name": "a", "0.1": None, "best": None}]


class Renamed(LeastSquares):
    """With the metrics that the configs' workloads have."""

    def build(self, num_workers, seed):
        task = super().build(num_workers, seed)

        def evaluate(params):
            metrics = task.evaluate(params)
            return {"test_loss": metrics["loss"], "test_accuracy": -metrics["distance"]}

        return dataclasses.replace(task, evaluate=evaluate)


def test_rates_are_tried_on_the_seeds_that_the_sweep_does_not_report(tmp_path, capsys):
    def made(name, rate, seed):
        return ssp.Experiment(
            workload=Renamed(num_examples=64, dimension=2, learning_rate=rate),
            policy=ssp.ASP(),
            runtime=ssp.Virtual(num_workers=2),
            max_updates=4,
            seed=seed,
        )

    tune(rates_of(["a"], (0.1, 0.2), (3, 4), made), tmp_path)
    content = json.loads((tmp_path / "grid.json").read_text())
    assert [(run["rate"], run["seed"]) for run in content["runs"]] == [
        (rate, seed) for rate in (0.1, 0.2) for seed in (0, 1, 2)
    ]
    assert all(run["test_loss"] > 0 and run["status"] == "done" for run in content["runs"])
    assert content["rows"][0]["best"] == "0.2 (largest tried)"
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["grid.json", "grid.md"]
    assert "0.2 (largest tried)" in capsys.readouterr().out


@pytest.mark.parametrize("config", [delay_compensation.study(), staleness_scaling.study()])
def test_a_config_reports_other_seeds_than_its_rates_are_picked_on(config):
    assert not set(config.seeds) & set(config.tuning)


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
