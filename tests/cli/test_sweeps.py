"""Sweeps: what is compared, and in processes of their own the same numbers, whatever fails."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.sweep_folder import OUTPUT
from jax_ssp.cli.config_file import parsed
from jax_ssp.cli.exits import BUG, DONE, INTERRUPTED, USAGE
from tests.helpers.command_line import CACHE, COMMAND, as_it_was, jax_ssp
from tests.helpers.line_config import CONFIG, SWEEP, written

__all__ = ["as_it_was"]  # a fixture, for every test here

# In this process


def test_a_sweep_is_run_compared_and_each_member_can_be_replayed(tmp_path, capsys, comparisons):
    file = written(tmp_path / "sweep.py", CONFIG + SWEEP)
    folder = tmp_path / "sweep"
    assert jax_ssp("run", file, "--workdir", folder, "--num-clocks", "4", "--jobs", "1") == DONE
    shown = capsys.readouterr().out
    assert "[4/4] SSP(1), seed 1" in shown

    members = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert members == ["00-BSP-seed0", "01-BSP-seed1", "02-SSP(1)-seed0", "03-SSP(1)-seed1"]
    comparison = json.loads((folder / "comparison.json").read_text())
    assert [row["name"] for row in comparison["rows"]] == ["SSP(1)", "BSP"]  # the best first
    assert [row["runs"] for row in comparison["rows"]] == [2, 2]
    assert [run["summary"]["updates"] for run in comparison["runs"]] == [16] * 4
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| SSP(1) |" in (folder / "comparison.md").read_text()

    for member in ("01-BSP-seed1", "02-SSP(1)-seed0"):
        assert jax_ssp("verify", folder / member) == DONE
        assert jax_ssp("replay", folder / member) == DONE
        assert "the same to the last bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["--seed", "5"], "0 ('BSP', seed 5) and 1 ('BSP', seed 5)"),
        (["--policy", "BSP"], "0 ('BSP', seed 0) and 2 ('SSP(1)', seed 0)"),
    ],
)
def test_overrides_that_make_runs_of_a_sweep_the_same_end_with_2(words, runs, tmp_path, capsys):
    file = written(tmp_path / "sweep.py", CONFIG + SWEEP)
    assert jax_ssp("run", file, "--workdir", tmp_path / "sweep", *words) == USAGE
    shown = capsys.readouterr().err
    assert f"with these overrides runs {runs} are the same experiment" in shown
    assert "edit the file" in shown
    assert not (tmp_path / "sweep").exists()


def test_overrides_leave_runs_be_that_the_file_has_twice(tmp_path):
    twice = """

def get_sweep() -> list[ssp.Experiment]:
    return [ssp.Experiment(name=name, num_clocks=5) for name in ("one", "other")]
"""
    experiments, _ = parsed(written(tmp_path / "sweep.py", CONFIG + twice), ["--seed", "5"])
    assert [(each.name, each.seed) for each in experiments] == [("one", 5), ("other", 5)]


def test_a_name_with_a_slash_still_names_one_folder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--num-clocks", "2", "--runtime.no-compute"]
    assert jax_ssp("run", config, *words, "--name", "line, 1/tau") == DONE
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("line, 1_tau-20")
    assert jax_ssp("replay", folder) == DONE

    file = written(tmp_path / "sweep.py", CONFIG + SWEEP.replace("name=name", "name='1/' + name"))
    assert jax_ssp("run", file, *words, "--workdir", "sweep", "--jobs", "1") == DONE
    members = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert members == ["00-1_BSP-seed0", "01-1_BSP-seed1", "02-1_SSP(1)-seed0", "03-1_SSP(1)-seed1"]


def test_a_run_that_diverges_does_not_spoil_the_comparison(tmp_path, capsys, comparisons):
    """Its evaluations are not finite, of which neither JSON nor a figure can show anything."""
    two = """

def get_sweep() -> list[ssp.Experiment]:
    runtime = ssp.Virtual(num_workers=2)
    return [
        ssp.Experiment(
            name=name, workload=Line(scale=scale), runtime=runtime, num_clocks=5, eval_every=1
        )
        for name, scale in {"good": 1.0, "wild": 1e30}.items()
    ]
"""
    folder = tmp_path / "sweep"
    file = written(tmp_path / "sweep.py", CONFIG + two)
    assert jax_ssp("run", file, "--workdir", folder, "--jobs", "1") == DONE
    assert "diverged" in capsys.readouterr().out
    text = (folder / "comparison.json").read_text()
    comparison = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    good, wild = comparison["rows"]
    assert good["distance"] < 3
    assert wild["distance"] is None
    assert (folder / "comparison.png").exists()


def test_of_a_sweep_one_run_is_verified_or_replayed(tmp_path, run, capsys):
    for command in ("verify", "replay"):
        assert jax_ssp(command, tmp_path) == USAGE
        assert f"it holds a sweep, give one, such as {run}" in capsys.readouterr().err
        assert jax_ssp(command, tmp_path / "nothing") == USAGE
        assert "is not a run's folder" in capsys.readouterr().err


# In processes of their own

# A workload that fails, or is killed, if it is asked to; and one that takes its time.
FATES = """

import os, signal, time

@dataclass(frozen=True)
class Fated(Line):
    fate: str = "fine"

    def build(self, num_workers, seed):
        task = super().build(num_workers, seed)
        def evaluate(params):
            if self.fate == "killed" and params["w"].any():
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fate == "bug" and params["w"].any():
                raise LookupError("nothing is here")
            if self.fate == "slow":
                time.sleep(0.05)
            return task.evaluate(params)
        return ssp.Task(task.step, task.params, task.data, evaluate)

def get_config():
    runtime = ssp.Virtual(num_workers=4, delay=ssp.delays.Exponential(mean=1.0))
    return ssp.Experiment("line", workload=Fated(), runtime=runtime, num_clocks=20, eval_every=1)
"""


@pytest.fixture
def fated(tmp_path) -> Path:
    return written(tmp_path / "line.py", CONFIG + FATES)


def by_fate(folder: Path) -> dict[str, ssp.Run]:
    runs = ssp.checkpoint.runs_in(folder)
    return {run.config["experiment"]["workload"]["fate"]: run for run in runs}


@pytest.mark.slow
def test_runs_at_once_have_the_numbers_of_runs_alone_and_one_that_fails_is_named(
    fated, tmp_path, capsys
):
    folder, words = tmp_path / "sweep", ("--fate", "fine", "bug", "killed")
    assert jax_ssp("run", fated, *words, "--jobs", "3", "--workdir", folder) == BUG
    shown = capsys.readouterr()
    assert "line, fate=bug, seed 0: failed: LookupError: nothing is here" in shown.err
    assert "line, fate=killed, seed 0: killed by SIGKILL: its process was ended" in shown.err
    assert f"(see {folder / '02-line, fate=killed-seed0' / OUTPUT})" in shown.err
    rows = json.loads((folder / "comparison.json").read_text())["rows"]
    assert {row["name"]: row["status"] for row in rows} == {
        "line, fate=fine": "done",
        "line, fate=bug": "failed",
        "line, fate=killed": "killed by SIGKILL",
    }
    assert rows[0]["name"] == "line, fate=fine"
    assert "LookupError" in (folder / "01-line, fate=bug-seed0" / "error.txt").read_text()

    assert jax_ssp("run", fated, "--fate", "fine", "--workdir", tmp_path / "alone") == DONE
    at_once, alone = by_fate(folder)["fine"], ssp.read_run(tmp_path / "alone")
    np.testing.assert_array_equal(at_once.params["w"], alone.params["w"], strict=True)
    assert list(at_once.tape) == list(alone.tape)
    assert at_once.evaluations == alone.evaluations


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_goes_on(fated, tmp_path):
    folder = tmp_path / "sweep"
    words = ("run", str(fated), "--fate", "slow", "fine", "--seed", "0", "1", "--jobs", "2")
    command = [sys.executable, "-c", COMMAND, *words, "--workdir", str(folder)]
    environment = {**os.environ, **CACHE}
    begun = threading.Event()
    process = subprocess.Popen(
        [*command, "--num-clocks", "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )

    def watch():
        while not begun.wait(0.1) and process.poll() is None:
            if sum(each.stat().st_size > 1000 for each in folder.glob("*/metrics.jsonl")) == 2:
                begun.set()

    watching = threading.Thread(target=watch)
    watching.start()
    watching.join(120)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == INTERRUPTED, out + err
    assert "Traceback" not in out + err
    runs = ssp.checkpoint.runs_in(folder)
    assert [run.status for run in runs] == ["interrupted", "interrupted"]
    assert all(ssp.check_contract(run.tape).merged for run in runs)
    assert len([each for each in folder.iterdir() if each.is_dir()]) == 2  # none for those not run
    assert f"`--workdir {folder}` goes on with it" in err

    differing = subprocess.run(
        [*command, "--num-clocks", "4"], capture_output=True, text=True, env=environment
    )
    assert differing.returncode == USAGE
    assert "`num_clocks` is 400 there, and 4 here" in differing.stderr
