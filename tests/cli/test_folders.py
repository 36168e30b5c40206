"""Each run of the command line has one folder, and it alone, whatever becomes of it."""

import os
from pathlib import Path

import pytest

import jax_ssp as ssp
import jax_ssp.checkpoint.params as saving
from jax_ssp.checkpoint.claim import Claim
from jax_ssp.cli.exits import BUG, DONE, USAGE
from jax_ssp.files import FolderLock
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.eventful import is_whole
from tests.helpers.line_config import CONFIG, SWEEP, written

__all__ = ["as_it_was"]  # a fixture, for every test here


@pytest.mark.parametrize("where", ["build", "data", "evaluation"])
@pytest.mark.every(3)
def test_a_folder_stays_where_it_is_whatever_directory_is_changed_to(eventful, tmp_path, where):
    words = eventful("os.chdir(HERE / 'tmp')", where)
    assert jax_ssp(*words[:2], "--workdir", "run") == DONE
    assert os.listdir(tmp_path / "tmp") == []
    is_whole(tmp_path / "run")


# Two runs, one folder


def test_a_folder_that_another_process_writes_is_refused_by_its_name(eventful, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    lock = FolderLock(tmp_path / "run")
    assert jax_ssp(*eventful("pass")) == USAGE
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'run'} is in use by process {os.getpid()} on " in shown
    assert "give another `--workdir`" in shown
    assert os.listdir(tmp_path / "run") == [".lock"]
    lock.release()
    assert jax_ssp(*eventful("pass")) == DONE
    assert ".lock" not in os.listdir(tmp_path / "run")


def test_a_run_holds_its_folder_from_before_it_is_built_until_all_is_saved(eventful, monkeypatch):
    refused = []
    save = saving.save_params

    def tried(folder, params):
        with pytest.raises(ValueError, match="is in use by process"):
            Claim(folder, unique=False)
        refused.append(folder)
        save(folder, params)

    monkeypatch.setattr(saving, "save_params", tried)
    event = """
    from jax_ssp.checkpoint.claim import Claim
    try:
        Claim(RUN, unique=False)
    except ValueError as error:
        assert "is in use by process" in str(error)
    else:
        raise AssertionError("two have it")"""
    assert jax_ssp(*eventful(event, "build")) == DONE
    assert refused


def test_runs_and_sweeps_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-000000")
    line = written(tmp_path / "line.py", CONFIG)
    sweep = written(tmp_path / "sweep.py", CONFIG + SWEEP)
    for _ in range(2):
        assert jax_ssp("run", line, "--num-clocks", "2", "--runtime.no-compute") == DONE
    for _ in range(2):
        assert (
            jax_ssp("run", sweep, "--num-clocks", "2", "--runtime.no-compute", "--jobs", "1")
            == DONE
        )
    names = [f"line-20260101-000000{end}" for end in ("", "-2")]
    names += [f"sweep-20260101-000000{end}" for end in ("", "-2")]
    assert sorted(os.listdir("runs")) == sorted(names)
    for name in names[:2]:
        assert ssp.read_tape(Path("runs", name, "tape.jsonl.gz")).complete


def test_a_folder_with_a_run_but_no_tape_of_it_is_refused(eventful, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    assert jax_ssp(*eventful("pass")) == USAGE
    assert "holds a run (metrics.jsonl), but nothing of its tape" in capsys.readouterr().err
    assert os.listdir(tmp_path / "run") == ["metrics.jsonl"]


@pytest.mark.parametrize("left", ["config.json", "tape.jsonl.gz"])
@pytest.mark.every(2)
def test_a_run_of_which_nothing_was_recorded_begins_anew(left, eventful, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).touch()  # killed before anything was in it
    assert jax_ssp(*eventful("pass")) == DONE
    is_whole(tmp_path / "run")


def test_a_folder_with_a_sweep_is_refused_by_a_run(tmp_path, capsys):
    sweep = written(tmp_path / "sweep.py", CONFIG + SWEEP)
    words = ("--num-clocks", "2", "--runtime.no-compute", "--workdir", tmp_path / "run")
    assert jax_ssp("run", sweep, *words, "--jobs", "1") == DONE
    assert jax_ssp("run", written(tmp_path / "line.py", CONFIG), *words) == USAGE
    assert "holds a sweep already" in capsys.readouterr().err


def test_reproduce_has_its_folder_alone(tmp_path, capsys):
    lock = FolderLock(tmp_path)
    papers = Path(__file__).parents[2] / "experiments" / "papers"
    words = ("reproduce", "all", "--size", "smoke", "--papers", papers, "--folder", tmp_path)
    assert jax_ssp(*words) == USAGE
    assert f"{tmp_path} is in use by process" in capsys.readouterr().err
    lock.release()


# Folders that go away


def test_a_folder_that_is_deleted_meanwhile_is_made_again_whole(eventful, tmp_path, capsys):
    assert jax_ssp(*eventful("shutil.rmtree(RUN)")) == DONE
    assert "was moved or deleted while its run goes on; it is made again" in capsys.readouterr().err
    is_whole(tmp_path / "run")


def test_a_folder_that_is_moved_meanwhile_leaves_both_readable(eventful, tmp_path):
    assert jax_ssp(*eventful('RUN.rename(HERE / "old")')) == DONE
    is_whole(tmp_path / "run")
    assert ssp.read_tape(tmp_path / "old" / "tape.jsonl.gz").header["num_workers"] == 4


def test_what_has_no_folder_any_more_is_saved_elsewhere_and_said(eventful, tmp_path, capsys):
    assert jax_ssp(*eventful("shutil.rmtree(RUN); RUN.write_text('mine')")) == BUG
    shown = capsys.readouterr()
    assert f"All is in {tmp_path / 'run-saved'}" in shown.err
    assert f"run folder: {tmp_path / 'run-saved'}" in shown.out
    assert "Traceback" not in shown.err
    assert (tmp_path / "run").read_text() == "mine"
    is_whole(tmp_path / "run-saved")


# Folders that cannot be


@pytest.mark.parametrize("name", ["a/b", "line\n2", "../up", "\U0001f600", "n" * 500, "\ttab"])
def test_a_name_of_any_letters_names_one_folder_or_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = written(tmp_path / "line.py", CONFIG)
    words = ("run", config, "--num-clocks", "2", "--runtime.no-compute", f"--name={name}")
    if jax_ssp(*words) == DONE:
        (folder,) = (tmp_path / "runs").iterdir()
        assert (folder / "tape.jsonl.gz").exists()
    assert sorted(os.listdir(tmp_path)) in (["line.py"], ["line.py", "runs"])


@pytest.mark.parametrize(
    "workdir", ["a file", "a file/below", "/dev/null", "/proc/none", "w" * 300]
)
@pytest.mark.every(3)
def test_a_folder_that_cannot_be_is_a_usage_error(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a file", "kept")
    config = written(tmp_path / "line.py", CONFIG)
    assert jax_ssp("run", config, "--workdir", workdir) == USAGE
    assert "Traceback" not in capsys.readouterr().err
    assert (tmp_path / "a file").read_text() == "kept"
