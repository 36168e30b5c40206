"""`jax-ssp run` of a good config file: what it writes, what it says, and its exit codes."""

import importlib.metadata
import os
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.cli import main
from jax_ssp.cli.exits import DIVERGED, DONE
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_a_run_writes_its_folder(finished):
    run = ssp.read_run(finished)
    assert Path(run.config["file"]).name == "line.py"
    assert run.config["overrides"] == ["--workdir", str(finished)]
    assert run.config["experiment"]["policy"] == {"type": "SSP", "bound": 3, "adopt": "eager"}
    assert run.tape.complete
    assert ssp.check_contract(run.tape).merged == 80
    assert run.status == "done"
    assert run.summary["updates"] == 80
    assert run.summary["contract"] == "kept"
    assert (run.summary["not_finite"], run.summary["passed_over"]) == (0, 0)
    assert len(run.history) == 80
    assert [row["updates"] for row in run.evaluations] == [0, 20, 40, 60, 80]
    assert run.summary["metrics"] == run.evaluations[-1]["metrics"]

    (events,) = finished.glob("events.out.tfevents.*")
    assert b"eval/distance" in events.read_bytes()
    assert (finished / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_parameters_are_the_results_to_the_last_bit(finished, config):
    assert jax_ssp("run", config, "--dry-run") == DONE  # loads the config file
    result = sys.modules["config_line"].get_config().run()
    saved = ssp.load_params(finished)
    assert jax.tree.structure(saved) == jax.tree.structure(result.params)
    assert np.asarray(saved["w"]).tobytes() == np.asarray(result.params["w"]).tobytes()


def test_it_says_what_came_of_the_run(config, tmp_path, capsys):
    assert jax_ssp("run", config, "--workdir", tmp_path / "run") == DONE
    shown = capsys.readouterr()
    assert "SSP(bound=3, adopt='eager') on 4 workers: done" in shown.out
    assert "80 updates" in shown.out
    assert "last evaluation: distance" in shown.out
    assert f"run folder: {tmp_path / 'run'}" in shown.out
    assert re.search(
        r"eval at update 20, \d+ samples: distance", shown.err
    )  # progress is not what a pipe should get


def test_the_folder_is_named_after_run_and_time_by_default(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert jax_ssp("run", config, "--name", "mine") == DONE
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("mine-20")


@pytest.mark.parametrize(("name", "most"), [("steps", 21), ("samples", 50)])
@pytest.mark.every(2)
def test_a_run_ends_by_steps_or_samples(name, most, config, tmp_path):
    words = ["--num-clocks", "None", f"--max-{name}", most, "--local-steps", "2"]
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == DONE
    run = ssp.read_run(tmp_path / "run")
    last = int(run.schedule[run.schedule["merge_version"] >= 0][-1][name])
    assert run.summary[name] - last < most <= run.summary[name]
    assert run.history[-1]["samples_seen"] == run.summary["samples"]
    assert run.evaluations[-1][name] == run.summary[name]
    assert run.summary["samples_per_second"] == run.summary["samples"] / run.summary["seconds"]
    assert jax_ssp("replay", tmp_path / "run") == DONE


def test_a_run_ends_by_epochs_of_data_that_knows_them(tmp_path):
    config = EXPERIMENTS / "linear_ssp.py"
    words = ["run", config, "--num-clocks", "None", "--num-epochs", "1", "--workdir"]
    assert jax_ssp(*words, tmp_path / "run") == DONE
    run = ssp.read_run(tmp_path / "run")
    size = run.tape.header["experiment"]["max_samples"]
    assert size <= run.summary["samples"] < 2 * size
    assert jax_ssp("replay", tmp_path / "run") == DONE


def test_dry_run_shows_memory_and_time_and_trains_nothing(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jax_ssp.training.run.run", lambda *_, **__: pytest.fail("it trained"))
    assert jax_ssp("run", config, "--dry-run") == DONE
    shown = capsys.readouterr().out
    for column in ("device", "workers", "compile s", "clock ms", "params MB", "scratch MB"):
        assert column in shown
    assert os.listdir(tmp_path) == ["line.py"]


def test_the_clockwork_alone_leaves_a_folder_without_parameters(config, tmp_path):
    run = tmp_path / "run"
    assert jax_ssp("run", config, "--runtime.no-compute", "--workdir", run) == DONE
    assert not (run / "params").exists()
    assert jax_ssp("verify", run) == DONE
    assert jax_ssp("replay", run) == DONE


def test_a_loss_that_is_not_finite_ends_with_3(config, tmp_path, capsys):
    run = tmp_path / "run"
    assert jax_ssp("run", config, "--workload.mistake", "nan", "--workdir", run) == DIVERGED
    assert ": diverged" in capsys.readouterr().out
    assert ssp.read_run(run).status == "diverged"
    assert ssp.read_tape(run / "tape.jsonl.gz").complete
    assert jax_ssp("verify", run) == DONE


# The other commands


def test_help_of_the_commands(capsys):
    assert jax_ssp("--help") == DONE
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("run", "replay", "verify", "devices"))
    assert jax_ssp("run", "--help") == DONE
    assert "run FILE --help" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    assert jax_ssp("--version") == DONE
    shown = capsys.readouterr().out
    assert shown.startswith(f"jax-ssp {ssp.__version__} (jax {jax.__version__}, Python 3.")


def test_the_command_is_installed():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="jax-ssp")
    assert entry.load() is main


def test_devices(capsys):
    assert jax_ssp("devices") == DONE
    shown = capsys.readouterr().out
    assert f"jax {jax.__version__}: 4 devices" in shown
    assert shown.count("cpu") >= 4
