"""Hooks of a config file: on the command line, in the run's folder, in a replay, in a sweep."""

import json

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.cli.exits import DONE, USAGE
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

CONFIG = '''"""A number that goes up, and is best at 2."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp


@dataclasses.dataclass(frozen=True)
class Up(ssp.Workload):
    def build(self, num_workers: int, seed: int) -> ssp.Task:
        def loss_fn(params, batch, key):
            return -jnp.mean(batch * params["x"]), {}

        return ssp.Task(
            step=ssp.make_step(loss_fn, optax.inject_hyperparams(optax.sgd)(0.5)),
            params={"x": np.zeros(1, np.float32)},
            data=lambda worker: iter([np.ones(1, np.float32)] * 100),
            evaluate=lambda params: {"distance": abs(params["x"][0] - 2)},
        )


def get_config():
    return ssp.Experiment(
        name="up",
        workload=Up(),
        policy=ssp.BSP(),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=60,
        hooks=(ssp.Ema(0.5), ssp.Best("distance", "min"), ssp.EarlyStop("distance", 3, "min")),
    )
'''
SWEEP = """

def get_sweep():
    base = get_config()
    return [dataclasses.replace(base, seed=seed) for seed in (0, 1)]
"""


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "up.py"
    file.write_text(CONFIG)
    return file


def test_hooks_of_a_config_end_its_run_and_are_in_its_folder(config, tmp_path, capsys):
    folder = tmp_path / "run"
    words = ["--hooks.2.patience", "2", "--hooks.0.decay", "0.75", "--eval-waits"]
    assert jax_ssp("run", config, "--workdir", folder, *words) == DONE
    said = capsys.readouterr()
    assert "early" in said.out
    assert "distance has been no better than 0 for 2 evaluations" in said.out
    assert "ends early: distance has been no better" in said.err
    run = ssp.read_run(folder)
    assert (run.status, run.summary["versions"]) == ("early", 7)
    assert run.summary["reason"] == "distance has been no better than 0 for 2 evaluations"
    best = {"metric": "distance", "value": 0.0, "version": 4}
    assert run.summary["kept"] == {"ema": {"decay": 0.75, "round": 7}, "best": best}
    assert run.config["experiment"]["hooks"][0] == {"type": "Ema", "decay": 0.75}
    assert float(run.params["x"][0]) == 3.5
    assert float(run.kept["best"]["x"][0]) == 2.0
    average = 0.0
    for version in range(1, 8):
        average = 0.75 * average + 0.25 * 0.5 * version
    np.testing.assert_allclose(run.kept["ema"]["x"][0], average, rtol=1e-6)
    assert {row["metrics"]["hyperparams/learning_rate"] for row in run.history} == {0.5}
    assert jax_ssp("verify", folder) == DONE
    assert jax_ssp("replay", folder) == DONE


def test_a_hook_that_goes_by_no_metric_there_is_is_a_mistake(config, tmp_path, capsys):
    words = ["--workdir", tmp_path / "run", "--hooks.1.metric", "accuracy"]
    assert jax_ssp("run", config, *words) == USAGE
    said = "`Best(metric=...)` asks for 'accuracy', which is not among what `evaluate` gives"
    assert said in capsys.readouterr().err
    assert jax_ssp("run", config, "--hooks.0.decay", "1.5") == USAGE
    assert "`Ema(decay=...)` must be at most 1, got 1.5" in capsys.readouterr().err


def test_a_rehearsal_without_computing_has_nothing_to_watch(config, tmp_path):
    folder = tmp_path / "run"
    assert jax_ssp("run", config, "--workdir", folder, "--runtime.no-compute") == DONE
    assert ssp.read_run(folder).summary["kept"] == {}


@pytest.mark.slow
def test_the_table_of_a_sweep_says_that_runs_ended_early(config, tmp_path, capsys):
    config.write_text(CONFIG + SWEEP)
    assert jax_ssp("run", config, "--workdir", tmp_path / "sweep") == DONE
    rows = json.loads((tmp_path / "sweep" / "comparison.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["early"]
    members = sorted(each for each in (tmp_path / "sweep").iterdir() if each.is_dir())
    assert [sorted(ssp.read_run(each).kept) for each in members] == [["best", "ema"]] * 2
