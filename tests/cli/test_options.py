"""Options of `jax-ssp run` change fields of the experiment, and replace parts of it by others."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.cli.config_file import parsed
from jax_ssp.cli.exits import DONE, USAGE
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.training.alternatives import alternatives
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.line_config import CONFIG, ON_DEVICES, written

__all__ = ["as_it_was"]  # a fixture, for every test here

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def experiment_of(run: Path) -> dict:
    return ssp.read_run(run).config["experiment"]


def test_typed_overrides(config, tmp_path):
    overrides = {
        "--policy.bound": "5",
        "--policy.adopt": "lazy",
        "--runtime.num-workers": "16",
        "--runtime.delay.mean": "0.5",
        "--server-tx.exponent": "2",
        "--workload.batch-size": "2",
        "--weight": "0.25",
        "--max-updates": "40",
        "--eval-every": "None",
        "--seed": "7",
    }
    words = [word for item in overrides.items() for word in item]
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == DONE
    experiment = experiment_of(tmp_path / "run")
    assert experiment["policy"] == {"type": "SSP", "bound": 5, "adopt": "lazy"}
    assert experiment["runtime"]["num_workers"] == 16
    assert experiment["runtime"]["delay"] == {"type": "Exponential", "mean": 0.5}
    assert experiment["server_tx"]["type"] == "scale_by_staleness"
    assert experiment["server_tx"]["exponent"] == 2.0
    assert experiment["workload"]["batch_size"] == 2
    assert (experiment["weight"], experiment["max_updates"]) == (0.25, 40)
    assert (experiment["eval_every"], experiment["seed"]) == (None, 7)
    assert ssp.read_run(tmp_path / "run").summary["updates"] == 40


@pytest.mark.slow
def test_a_part_is_replaced_by_another_kind(config, tmp_path):
    words = ["--policy", "KSync", "--policy.k=2", "--delta-tx=clip_outliers", "--delta-wire"]
    words += ["topk", "--local-steps", "dylu", "--local-steps.h", "2", "--server-tx", "outer"]
    words += ["--server-tx.optimizer.learning-rate", "0.5"]
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == DONE
    experiment = experiment_of(tmp_path / "run")
    assert experiment["policy"] == {"type": "KSync", "k": 2}
    assert experiment["delta_tx"]["type"] == "clip_outliers"
    assert experiment["delta_wire"]["type"] == "TopK"
    assert experiment["local_steps"] == {"type": "DyLU", "h": 2, "memory": 32}
    optimizer = experiment["server_tx"]["optimizer"]
    assert (optimizer["learning_rate"], optimizer["momentum"]) == (0.5, 0.9)
    assert jax_ssp("replay", tmp_path / "run") == DONE


def runtime_of(file: Path, *words: str) -> Runtime:
    (experiment,), _ = parsed(file, list(words))
    return experiment.runtime


def test_from_rehearsal_to_devices(config, tmp_path):
    words = ["--runtime", "Devices", "--runtime.num-workers", "2"]
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == DONE
    runtime = experiment_of(tmp_path / "run")["runtime"]
    assert (runtime["type"], runtime["num_workers"], runtime["delay"]) == ("Devices", 2, None)
    assert jax_ssp("replay", tmp_path / "run") == DONE
    delayed = runtime_of(config, "--runtime.delay", "straggler", "--runtime=devices")
    assert delayed == ssp.Devices(delay=ssp.delays.Straggler())  # in whatever order


def test_from_devices_to_a_rehearsal(tmp_path):
    """What the file says of its workers and delays stays."""
    delay = "ssp.delays.Pareto(1.0, 2.0), seed=7"
    file = written(tmp_path / "line.py", CONFIG + ON_DEVICES.replace("DELAY", delay))
    pareto = ssp.delays.Pareto(1.0, 2.0)
    assert runtime_of(file, "--runtime", "Virtual") == ssp.Virtual(2, pareto, seed=7)
    words = ["--runtime", "Virtual", "--runtime.num-workers", "16", "--runtime.delay.shape", "3"]
    assert runtime_of(file, *words) == ssp.Virtual(16, ssp.delays.Pareto(1.0, 3.0), seed=7)
    without = written(tmp_path / "none.py", CONFIG + ON_DEVICES.replace("DELAY", "None"))
    assert runtime_of(without, "--runtime", "Virtual") == ssp.Virtual(2, ssp.delays.Exponential())


def test_a_delay_is_replaced_by_another_kind(config, tmp_path):
    words = ["--runtime.delay", "Straggler", "--runtime.delay.base.seconds", "0.5"]
    straggler = ssp.delays.Straggler(ssp.delays.Constant(0.5))
    assert runtime_of(config, *words) == ssp.Virtual(4, straggler)
    rng = np.random.default_rng(0)
    for name, make in alternatives()["runtime.delay"].items():
        if name != "None":
            delay = runtime_of(config, "--runtime.delay", name).delay
            assert delay == make()
            mean = delay(worker=1, clock=0, steps=4000, rng=rng) / 4000
            assert mean == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("named", [["--runtime.recovery", "Recovery"], []])
def test_a_recovery_is_there_as_soon_as_a_field_of_it_is_given(named, config):
    words = ["--runtime", "Devices", *named, "--runtime.recovery.restarts", "5"]
    assert runtime_of(config, *words) == ssp.Devices(recovery=ssp.Recovery(restarts=5))


@pytest.mark.parametrize("kind", [ssp.Virtual, ssp.Devices])
def test_a_network_is_there_as_soon_as_a_field_of_it_is_given(kind, config):
    words = ["--runtime", kind.__name__, "--runtime.network.latency", "0.05"]
    found = runtime_of(config, *words, "--runtime.network.bandwidth", "1e6", "2e6")
    assert found.network == ssp.Network(latency=0.05, bandwidth=(1e6, 2e6))
    alone = runtime_of(config, *words, "--runtime.network.server-bandwidth", "1.25e8")
    assert alone.network == ssp.Network(latency=0.05, server_bandwidth=1.25e8)


def test_a_part_is_taken_away_by_its_name(tmp_path):
    full = """

def get_config() -> ssp.Experiment:
    return ssp.Experiment(
        runtime=ssp.Devices(delay=ssp.delays.Constant()),
        local_steps=ssp.DyLU(h=8),
        adopt=ssp.Mix(0.5),
        delta_wire=ssp.compression.Int8(),
    )
"""
    words = ["--runtime.delay", "None", "--local-steps", "2", "--adopt", "rebase"]
    words += ["--delta-wire", "None"]
    (experiment,), _ = parsed(written(tmp_path / "full.py", CONFIG + full), words)
    assert experiment == ssp.Experiment(runtime=ssp.Devices(), local_steps=2)


@pytest.mark.parametrize(
    ("part", "typo", "meant"),
    [
        ("policy", "KSynk", "KSync"),
        ("server-tx", "clip_outlier", "clip_outliers"),
        ("delta-wire", "int9", "Int8"),
        ("local-steps", "diloo", "DyLU"),
        ("adopt", "mixed", "Mix"),
        ("runtime", "Device", "Devices"),
        ("runtime.delay", "exponentail", "Exponential"),
    ],
)
def test_a_kind_that_is_none_is_a_usage_error_with_the_nearest_name(
    config, part, typo, meant, capsys
):
    assert jax_ssp("run", config, f"--{part}", typo) == USAGE
    assert f"got '{typo}'; did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["--policy", "--workdir", "q5"], "'--workdir'"),
        (["--policy"], "nothing"),
        (["--policy="], "nothing"),
    ],
)
def test_a_kind_that_is_missing_is_a_usage_error(config, words, got, capsys):
    assert jax_ssp("run", config, *words) == USAGE
    shown = capsys.readouterr().err
    assert "--policy needs a name after it, one of ASP, BackupWorkers, BSP" in shown
    assert f"; got {got}\n" in shown


def flags(experiment: dict, prefix: str = "--") -> list[str]:
    """The options that a description of an experiment should have."""
    found = []
    for name, value in experiment.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            found += flags(value, f"{flag}.")
        elif name not in ("type", "devices", "faults", "shardings", "batch_spec"):
            found.append(flag)
    return found


@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("[a-z]*.py")), ids=lambda file: file.stem)
@pytest.mark.every(4)
def test_help_shows_every_field(file, capsys):
    assert jax_ssp("run", file, "--help") == DONE
    shown = capsys.readouterr().out
    module = sys.modules[f"config_{file.stem}"]
    first = module.get_sweep()[0] if hasattr(module, "get_sweep") else module.get_config()
    expected = [*flags(first.describe()), "--workdir", "--dry-run"]
    assert len(expected) > 15
    assert [flag for flag in expected if not re.search(f"{re.escape(flag)}[ ,]", shown)] == []
    assert module.__doc__.split("\n")[0] in shown
