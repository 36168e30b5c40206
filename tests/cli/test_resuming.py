"""Runs that are broken off, and the same command again: who goes on, and how the process ends."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.cli import main
from jax_ssp.cli.exits import AGAIN, DIVERGED, DONE, INTERRUPTED, TOO_FEW, USAGE, Early
from jax_ssp.runtimes.cut import SpoiledCheckpoint
from jax_ssp.runtimes.interrupts import listening
from tests.helpers.command_line import COMMAND, as_it_was, jax_ssp
from tests.helpers.line_config import CONFIG, SWEEP, written

__all__ = ["as_it_was"]  # a fixture, for every test here too

DOCS = Path(__file__).parents[2] / "docs"

# A signal comes when so many rows are on the tape of the first process.
SIGNALLED = """

import pathlib, signal

class Signal(ssp.Observer):
    def on_start(self, info):
        self.rows = 0

    def on_entry(self, now, event, commands):
        self.rows += 1
        once = pathlib.Path(__file__).with_suffix(".once")
        if self.rows == 20 and not once.exists():
            once.touch()
            signal.raise_signal(signal.NUMBER)

config = get_config

def get_config():
    import dataclasses
    return dataclasses.replace(config(), hooks=(Signal(),), policy=ssp.SSP(1), num_clocks=10)
"""
SAVED = ("--checkpoint", "Checkpoints", "--checkpoint.every", "1h")


@pytest.fixture
def line(tmp_path):
    """The words of a run that gets a signal, the first time."""

    def words(number="SIGTERM", *more, config=SIGNALLED):
        file = written(tmp_path / "line.py", CONFIG + config.replace("NUMBER", number))
        return "run", file, "--workdir", tmp_path / "run", *more

    return words


def test_a_run_that_sigterm_ended_goes_on_by_the_same_command(line, tmp_path, capsys):
    assert jax_ssp(*line("SIGTERM", *SAVED)) == AGAIN
    run = ssp.read_run(tmp_path / "run")
    rows = len(run.tape)
    assert (run.status, run.tape.complete) == ("interrupted", False)
    said = capsys.readouterr().err
    assert f"interrupted; the same command with `--workdir {tmp_path / 'run'}` goes on" in said
    for command in ("verify", "replay"):
        assert jax_ssp(command, tmp_path / "run") == DONE
    assert f"checkpoints whole: those of rows {rows}" in capsys.readouterr().out
    assert jax_ssp(*line("SIGTERM", *SAVED)) == DONE
    assert f"going on after {rows} rows of the tape" in capsys.readouterr().err
    for command in ("verify", "replay"):
        assert jax_ssp(command, tmp_path / "run") == DONE
    assert "parameters the same to the last bit" in capsys.readouterr().out
    run = ssp.read_run(tmp_path / "run")
    assert (run.status, run.resumes, len(run.config["starts"])) == ("done", 1, 2)
    assert jax_ssp(*line()[:3], tmp_path / "whole") == DONE  # the signal comes once
    np.testing.assert_array_equal(run.params["w"], ssp.read_run(tmp_path / "whole").params["w"])


@pytest.mark.parametrize(
    ("number", "words", "code"),
    [("SIGINT", SAVED, INTERRUPTED), ("SIGTERM", (), INTERRUPTED), ("SIGINT", (), INTERRUPTED)],
)
@pytest.mark.every(3)
def test_what_else_ends_with_130_goes_on_too(number, words, code, line, tmp_path):
    assert jax_ssp(*line(number, *words)) == code
    assert ssp.read_run(tmp_path / "run").status == "interrupted"
    assert jax_ssp(*line(number, *words)) == DONE
    assert ssp.read_run(tmp_path / "run").resumes == 1
    assert jax_ssp("verify", tmp_path / "run") == DONE


LOSING = """

config = get_config

def get_config():
    import dataclasses
    recovery = ssp.Recovery(restarts=0, min_workers=2)
    runtime = ssp.Devices(num_workers=2, faults=[ssp.faults.Raise(0, 2)], recovery=recovery)
    return dataclasses.replace(config(), runtime=runtime, policy=ssp.SSP(1), num_clocks=10)
"""


def test_who_has_too_few_workers_left_ends_with_4(line, tmp_path):
    assert jax_ssp(*line(config=LOSING)) == TOO_FEW == 4
    assert ssp.read_run(tmp_path / "run").status == "too few workers"


def test_who_may_go_on(line, tmp_path, capsys):
    quick = ("--runtime.no-compute", "--num-clocks", "3")
    words = [*line(config=""), *quick]

    def refused(*more):
        assert jax_ssp(*words, *more) == USAGE
        return capsys.readouterr().err

    assert "holds no run to go on with" in refused("--resume", "must")
    assert not (tmp_path / "run").exists()
    assert "sometimes" in refused("--resume", "sometimes")
    assert jax_ssp(*words) == DONE
    before = (tmp_path / "run" / "summary.json").read_bytes()
    assert "which is over (done); to go on with it raise what ends it" in refused()
    assert "holds a run already; give another `--workdir`" in refused("--resume", "never")
    assert "`policy.bound` is 3 there, and 5 here" in (said := refused("--policy.bound", "5"))
    assert "RunFolder" not in said
    there = ("--checkpoint", "Checkpoints", "--checkpoint.folder", tmp_path / "run")
    assert jax_ssp(*words[:2], *quick, *there) == USAGE
    assert "give another `--checkpoint.folder`, or a `--workdir`" in capsys.readouterr().err
    assert "what ends a run can only be raised" in refused("--num-clocks", "2")
    assert "--resume must goes on with the run in a folder" in refused_without_a_folder(
        line, capsys
    )
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    for more in (("5",), ("7", "--resume", "must")):
        assert jax_ssp(*words[:-1], *more) == DONE
        assert jax_ssp("verify", tmp_path / "run") == DONE
    assert ssp.read_run(tmp_path / "run").summary["updates"] == 28
    assert jax_ssp("replay", tmp_path / "run") == DONE


SPOILED = (
    SIGNALLED
    + """
before = Line.build
bad = pathlib.Path(__file__).with_suffix(".bad")  # how many lives there are in which data is bad

def left():
    return int(bad.read_text()) if bad.exists() else 0

def on_end(self, status):
    bad.write_text(str(max(0, left() - 1)))

Signal.on_end = on_end

def build(self, num_workers, seed):
    import dataclasses

    def data(worker):
        x = np.ones((4, 3), np.float32)
        for number in range(40):
            yield x * np.float32(np.nan if left() and number >= 3 else 1.0), x[:, 0]

    return dataclasses.replace(before(self, num_workers, seed), data=data)

Line.build = build
"""
)


@pytest.mark.parametrize(("bad", "code"), [(1, DONE), (2, DIVERGED)])
def test_what_is_not_finite_after_a_load_goes_on_from_the_checkpoint_before(
    line, tmp_path, capsys, bad, code
):
    """The machine is wrong once; or it is the data, of which comes the same again."""
    words = line("SIGTERM", "--checkpoint.every", "2", config=SPOILED)
    assert jax_ssp(*words) == AGAIN
    steps = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    (tmp_path / "line.bad").write_text(str(bad))
    if code == DONE:
        assert jax_ssp(*words) == code
    else:
        with pytest.raises(SpoiledCheckpoint, match=r"is not finite|was finite before") as caught:
            main([str(word) for word in words])
        assert caught.value.exit_code == code
        assert any("neither is to blame" in each for each in caught.value.__notes__)
    said = capsys.readouterr().err
    assert "The checkpoint is set aside; going on from the one before." in said
    assert "is damaged" not in said
    there = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    run = ssp.read_run(tmp_path / "run")
    if code == DIVERGED:
        assert there == steps
    else:
        assert (run.status, run.resumes) == ("done", 1)
        assert [name for name in there if name.endswith(".suspect")]
        assert jax_ssp("replay", tmp_path / "run") == DONE


def refused_without_a_folder(line, capsys):
    assert jax_ssp(*line(config="")[:2], "--resume", "must") == USAGE
    return capsys.readouterr().err


def test_the_folder_may_be_that_of_the_checkpoints(line, tmp_path):
    folder = tmp_path / "named"
    words = line("SIGTERM", *SAVED, "--checkpoint.folder", folder)
    words = [*words[:2], *words[4:]]  # no --workdir
    assert jax_ssp(*words) == AGAIN
    assert jax_ssp(*words) == DONE
    assert ssp.read_run(folder).resumes == 1
    assert jax_ssp("replay", folder) == DONE


@pytest.mark.slow
def test_a_sweep_that_sigterm_ended_goes_on_by_the_same_command(tmp_path, capsys):
    again = SIGNALLED.replace("NUMBER", "SIGTERM").replace("get_config()", "get_sweep()")
    again = again.replace("config = get_config", "config = get_sweep").replace("== 20", "== 9")
    again = re.sub(
        r"return dataclasses.*",
        "return [dataclasses.replace(each, hooks=(Signal(),)"
        ", checkpoint=ssp.Checkpoints(every=1)) for each in config()[1:3]]",
        again,
    )
    file = written(tmp_path / "sweep.py", CONFIG + SWEEP + again)
    words = ("run", file, "--workdir", tmp_path / "sweep", "--jobs", "1")
    assert jax_ssp(*words) == AGAIN
    (first,) = (tmp_path / "sweep").glob("00-*")
    assert ssp.read_run(first).status == "interrupted"
    assert not list((tmp_path / "sweep").glob("01-*/tape*"))
    assert "already" in refused(capsys, *words, "--resume", "never")
    assert jax_ssp(*words) == DONE
    assert [run.status for run in ssp.checkpoint.runs_in(tmp_path / "sweep")] == ["done"] * 2
    assert ssp.read_run(first).resumes == 1
    assert "no runs to go on with" in refused(
        capsys, *words[:3], tmp_path / "new", "--resume", "must"
    )


def refused(capsys, *words):
    assert jax_ssp(*words) == USAGE
    return capsys.readouterr().err


# --- a scheduler --------------------------------------------------------------------------------


def script_of(page):
    """The batch script on a page of the documentation."""
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n#SBATCH.*?)```", page.read_text(), re.DOTALL)
    return script


def executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def rows_on(tape):
    try:
        return len(ssp.read_tape(tape))
    except (OSError, ValueError):
        return 0


class Scheduler:
    """Stands in for SLURM: runs a batch script, warns its shell, and runs it again if it asks."""

    def __init__(self, folder, script):
        tools = folder / "tools"
        tools.mkdir()
        self._asked = folder / "asked"
        python = f"exec {sys.executable} -c"
        executable(tools / "jax-ssp", f"#!/bin/sh\n{python} '{COMMAND}' \"$@\"\n")
        executable(tools / "scontrol", f'#!/bin/sh\necho "$@" >> {self._asked}\n')
        self._script = executable(folder / "job.sh", script)
        self._folder = folder
        path = f"{tools}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7"}

    def run(self, when=lambda: False):
        """Run the job, warn it when it is time; gives the exit code, and whether to run again."""
        self._asked.write_text("")
        job = subprocess.Popen(
            [self._script], cwd=self._folder, env=self._environment, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 120
        while job.poll() is None and not when() and time.monotonic() < until:
            time.sleep(0.02)
        if job.poll() is None:
            job.send_signal(signal.SIGTERM)  # to the shell alone
        code = job.wait(timeout=300)
        return code, self._asked.read_text() == "requeue 7\n"


@pytest.mark.slow
def test_the_script_for_slurm_goes_on_until_the_run_is_done(tmp_path):
    script = script_of(DOCS / "checkpoints.md")
    slow = SIGNALLED.replace("signal.raise_signal(signal.NUMBER)", "pass").replace(
        "self.rows += 1", "self.rows += 1; import time; time.sleep(0.02)"
    )
    written(tmp_path / "line.py", CONFIG + slow.replace("num_clocks=10", "num_clocks=40"))
    script = script.replace("experiments/digits_ssp.py", "line.py")
    script = script.replace("runs/digits", "run")
    scheduler, tape = Scheduler(tmp_path, script), tmp_path / "run" / "tape.jsonl.gz"
    told = []
    while not told or told[-1][1]:
        told.append(scheduler.run(lambda: not told and rows_on(tape) > 10))
    assert told == [(AGAIN, True), (DONE, False)]
    run = ssp.read_run(tmp_path / "run")
    assert (run.status, run.resumes) == ("done", 1)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 160
    ssp.check_contract(run.tape)


def test_what_sigterm_ends_before_it_is_built_is_run_again_if_there_is_a_checkpoint():
    for resumable, number, code in (
        (True, signal.SIGTERM, AGAIN),
        (False, signal.SIGTERM, INTERRUPTED),
        (True, signal.SIGINT, INTERRUPTED),
    ):
        early = Early()
        early.resumable = lambda answer=resumable: answer
        with listening(signal.SIGINT, signal.SIGTERM) as interrupts:
            early.listens_to(interrupts)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert early.interrupted == code


@pytest.mark.slow
def test_a_signal_that_comes_while_the_config_is_read_counts_the_checkpoints_that_are_there(line):
    """A job that is put into the queue again may be told to end before it has begun."""
    words = line("SIGTERM", *SAVED)
    assert jax_ssp(*words) == AGAIN
    file = words[1]
    file.write_text(f"{file.read_text()}\nsignal.raise_signal(signal.SIGTERM)\n")
    ended = _process(words)
    assert ended.returncode == AGAIN, ended.stderr.decode()
    alone = [word for word in words if word not in ("--workdir", words[3])]
    ended = _process(alone)
    assert ended.returncode == INTERRUPTED


def _process(words):
    """The command in a process of its own."""
    command = [sys.executable, "-c", COMMAND, *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=300)
