"""What the user gets wrong ends with an exit code of its own and says the remedy."""

import sys
from pathlib import Path

import jax
import pytest

import jax_ssp as ssp
from jax_ssp.cli import main
from jax_ssp.cli.exits import DONE, USAGE
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.line_config import CONFIG, ON_DEVICES, written

__all__ = ["as_it_was"]  # a fixture, for every test here

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

MISTAKES = {
    "a negative bound": (["--policy.bound", "-1"], "must be non-negative, got -1"),
    "no local steps": (["--local-steps", "0"], "local_steps=...)` must be at least 1, got 0"),
    "no workers": (["--runtime.num-workers", "0"], "must be at least 1, got 0"),
    "no clocks": (["--num-clocks", "0"], "num_clocks=...)` must be at least 1, got 0"),
    "no end": (["--num-clocks", "None"], "give `num_clocks`, `max_updates`, "),
    "no such field": (["--policy.bond", "5"], "--policy.bound"),
    "no number": (["--policy.bound", "many"], "invalid"),
    "not a weight": (["--weight", "nan"], '"samples", "tokens" or a finite number, got nan'),
    "not a target": (["--target", "distance"], "`target` must read like"),
    "no evaluation": (["--eval-every", "0"], "eval_every=...)` must be at least 1, got 0"),
    "an empty shard": (["--runtime.num-workers", "65"], "leaves worker 64 with 0 of the 64"),
    "a small shard": (["--workload.batch-size", "99"], "lower `batch_size` to at most 16"),
    "no delay": (["--runtime.delay", "None"], "`Virtual(delay=...)` must be a function"),
    "a vector for a loss": (["--workload.mistake", "vector"], "must return a scalar loss"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_ends_with_2_and_the_remedy(words, message, config, tmp_path, capsys):
    assert jax_ssp("run", config, *words, "--workdir", tmp_path / "run") == USAGE
    shown = capsys.readouterr().err
    unwrapped = " ".join(shown.replace("│", " ").split())  # tyro draws a box around its messages
    assert message in unwrapped
    assert "Traceback" not in shown
    assert not (tmp_path / "run").exists()  # so the same command can be tried again


FILES = {
    "no get_config": ("x = 3\n", "has no `get_config()`"),
    "a syntax error": ("def get_config(:\n", "SyntaxError"),
    "a missing module": ("import no_such_module\n", "No module named 'no_such_module'"),
    "not an Experiment": ("def get_config():\n    return 3\n", "must give a jax_ssp.Experiment"),
    "an empty sweep": ("def get_sweep():\n    return []\n", "gives no experiments"),
    "no workload": (
        "import jax_ssp\ndef get_config():\n    return jax_ssp.Experiment(num_clocks=1)\n",
        "`Experiment(workload=...)` is missing",
    ),
    "a bad value": (
        "import jax_ssp\ndef get_config():\n"
        "    return jax_ssp.Experiment(policy=jax_ssp.SSP(-2), num_clocks=1)\n",
        "must be non-negative, got -2",
    ),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_config_ends_with_2(text, message, tmp_path, capsys):
    assert jax_ssp("run", written(tmp_path / "wrong.py", text)) == USAGE
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_missing_file_ends_with_2(tmp_path, capsys):
    assert jax_ssp("run", tmp_path / "missing.py") == USAGE
    assert f"there is no config file {tmp_path / 'missing.py'}" in capsys.readouterr().err


def test_more_devices_than_there_are_ends_with_2(tmp_path, capsys):
    file = written(tmp_path / "line.py", CONFIG + ON_DEVICES.replace("DELAY", "None"))
    assert len(jax.devices()) == 4  # and JAX having started, it cannot be split anew
    nine = ("--runtime.num-workers", "9", "--runtime.cpu-devices", "9", "--num-clocks", "1")
    assert jax_ssp("run", file, *nine) == USAGE
    assert (
        "`Devices(cpu_devices=9)` comes too late: JAX has started with 4" in capsys.readouterr().err
    )


def test_a_folder_with_a_run_in_it_is_not_written_to(config, run, capsys):
    before = (run / "summary.json").read_bytes()
    assert jax_ssp("run", config, "--workdir", run) == USAGE
    assert f"{run} holds a run already" in capsys.readouterr().err
    assert (run / "summary.json").read_bytes() == before


def test_without_scikit_learn_the_digits_say_how_to_get_it(monkeypatch, capsys):
    assert jax_ssp("run", EXPERIMENTS / "digits_ssp.py", "--help") == DONE  # loads the workload
    digits = sys.modules["experiments.workloads.digits"]
    digits.load_digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    # A width that no other test uses: tasks are kept.
    arguments = ("run", EXPERIMENTS / "digits_ssp.py", "--dry-run", "--workload.width", "3")
    capsys.readouterr()
    assert jax_ssp(*arguments) == USAGE
    shown = capsys.readouterr().err
    assert "pip install 'jax_ssp[experiments]'" in shown
    assert "Traceback" not in shown


def test_a_bug_of_the_users_keeps_its_traceback(config, tmp_path):
    with pytest.raises(NameError, match="undefined_name"):
        main(["run", str(config), "--workload.mistake", "bug", "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_bug_in_the_evaluation_is_found_before_the_run(config, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="no evaluation at all"):
        main(["run", str(config), "--workload.mistake", "first evaluation", "--workdir", str(run)])
    assert not run.exists()
    assert jax_ssp("run", config, "--target", "nothing <= 1", "--workdir", run) == USAGE
    assert not run.exists()


def test_a_bug_in_the_evaluation_leaves_what_there_is(config, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="no evaluation today"):
        main(["run", str(config), "--workload.mistake", "evaluation", "--workdir", str(run)])
    tape = ssp.read_tape(run / "tape.jsonl.gz")
    assert not tape.complete
    assert ssp.check_contract(tape).merged == 20
