"""Sweeps in processes of their own: the same numbers, and what becomes of those that fail."""

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
from jax_ssp.cli.exits import BUG, DONE, INTERRUPTED, USAGE
from tests.cli.test_cli import CACHE, COMMAND, CONFIG, written
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

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
