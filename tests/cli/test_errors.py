"""Errors, exits and nonsense in the user's code, and an error in ours: what ends a run, and how."""

import json
import os

import pytest

import jax_ssp as ssp
from jax_ssp.cli import main
from jax_ssp.cli.exits import BUG, DONE, USAGE
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.eventful import is_whole
from tests.helpers.line_config import written

__all__ = ["as_it_was"]  # a fixture, for every test here


@pytest.mark.parametrize("where", ["config", "build", "data", "evaluation"])
def test_an_exception_that_is_no_error_is_told_like_one(eventful, capsys, where):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in eventful("raise GeneratorExit", where)])
    assert ended.value.code == BUG
    shown = capsys.readouterr().err
    assert "error: GeneratorExit" in shown
    assert "Traceback" not in shown


def test_a_picture_that_cannot_be_drawn_is_no_failure(eventful, tmp_path, monkeypatch):
    monkeypatch.setattr("jax_ssp.report.timeline.run_summary", lambda *_: 1 / 0)
    assert jax_ssp(*eventful("pass")) == DONE
    is_whole(tmp_path / "run")


@pytest.mark.parametrize("where", ["evaluation", "data"])
def test_an_error_in_a_run_leaves_what_it_has_come_to(where, eventful, tmp_path, capsys):
    with pytest.raises(LookupError, match="not today"):
        main([str(word) for word in eventful("raise LookupError('not today')", where)])
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["error"]) == ("failed", "LookupError: not today")
    assert summary["updates"] > 10
    assert ssp.load_params(run)["w"].any()
    assert ssp.check_contract(ssp.read_tape(run / "tape.jsonl.gz")).merged == summary["updates"]
    assert "in happens" in (run / "error.txt").read_text()
    assert f"updates up to the failed end are in {run}" in capsys.readouterr().err
    assert jax_ssp("verify", run) == DONE


@pytest.mark.parametrize("code", ["", "0", "'bye'"])
@pytest.mark.parametrize("where", ["build", "data"])
@pytest.mark.every(2)
def test_an_exit_in_a_run_is_no_success(where, code, eventful, capsys):
    words = [str(word) for word in eventful(f"sys.exit({code})", where)]
    with pytest.raises((SystemExit, RuntimeError)) as ended:
        main(words)
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == BUG
        assert f"sys.exit({code or None}) was called" in capsys.readouterr().err
    else:  # within `train`, whose error it is then
        assert "`sys.exit` was called in a run" in str(ended.value)


@pytest.mark.parametrize("event", ["sys.exit(0)", "raise KeyError('x')", "1 / 0"])
def test_a_config_file_that_raises_ends_with_2_and_says_where(event, eventful, tmp_path, capsys):
    assert jax_ssp(*eventful(event, "config")) == USAGE
    shown = capsys.readouterr().err
    assert f"error: {tmp_path / 'line.py'} cannot be read: " in shown
    assert f"  at {tmp_path / 'line.py'}:" in shown
    assert "Traceback" not in shown


NONSENSE = {
    "a number": "get_config = 3",
    "arguments": "def get_config(x): return x",
    "nothing": "def get_config(): pass",
    "a class": "import jax_ssp as ssp\ndef get_config(): return ssp.Experiment",
    "no repr": "class R:\n    def __repr__(self): 1 / 0\ndef get_config(): return R()",
    "no sweep": "def get_sweep(): return None",
    "a text": "def get_sweep(): return 'abc'",
    "a generator": "def get_sweep(): yield 1",
    "null bytes": "x = 1\0",
    "no task": "import jax_ssp as ssp\n"
    "class W(ssp.Workload):\n    def build(self, n, s): return 3\n"
    "def get_config(): return ssp.Experiment(workload=W(), num_clocks=1)",
}


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
def test_a_config_file_that_gives_nonsense_ends_with_2(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert jax_ssp("run", written(tmp_path / "line.py", text)) == USAGE
    shown = capsys.readouterr().err
    assert "line.py" in shown or "W.build(...)" in shown
    assert "Traceback" not in shown
    assert os.listdir(tmp_path) == ["line.py"]
