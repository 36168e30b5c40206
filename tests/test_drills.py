"""What docs/extending.md says how to add is added as it says, and is then as good as the rest."""

import importlib
import json
import re
import sys

import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.cli.exits import DONE, USAGE
from tests.helpers import drills
from tests.helpers.command_line import as_it_was, jax_ssp
from tests.helpers.harness import random_run

__all__ = ["as_it_was"]  # a fixture, for every test here


def test_a_change_is_made_where_its_lines_are_and_nowhere_else():
    assert drills.changed("a\nb\n", " a\n+new\n b\n") == "a\nnew\nb\n"
    assert drills.changed("a\nb\n", "-a\n b\n") == "b\n"
    with pytest.raises(AssertionError, match="this 0 times"):
        drills.changed("a\nc\nb\n", " a\n+new\n b\n")
    with pytest.raises(AssertionError, match="this 2 times"):
        drills.changed("a\na\n", " a\n+new\n")


# --- a policy -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_policy_is_one_file_and_one_row(tmp_path):
    file, row = drills.blocks("A policy")
    assert (file.is_change, row.is_change) == (False, True)
    assert [line[0] for line in row.text.splitlines()].count("+") == 1
    root = drills.house(tmp_path)
    drills.follow([file, row], root)
    # The rules of the house, any schedule, ahead and not, its example, every mode of exchange.
    rooms = ("policies", "controller", "test_examples.py", "report/test_plots.py")
    modes = ("runtimes/test_modes.py", "runtimes/test_policies_run.py")
    words = "MergeInPairs or merge_in_pairs or table or has_a_look"
    passed = drills.passed(root, words, *(f"tests/{each}" for each in (*rooms, *modes)))
    assert passed >= 20
    said = drills.python(root, "-c", "import jax_ssp; print(jax_ssp.MergeInPairs())")
    assert said == "MergeInPairs()\n"


@pytest.fixture
def policy_of_the_page(tmp_path, monkeypatch):
    """The policy that the page adds, from the file that it says to write."""
    (tmp_path / "added_policy.py").write_text(drills.blocks("A policy")[0].text)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("added_policy")
    yield module.MergeInPairs
    del sys.modules["added_policy"]


def test_the_policy_of_the_page_keeps_the_contract_on_any_schedule(policy_of_the_page):
    policy = policy_of_the_page()
    ssp.testing.check_policy(policy)
    for seed in range(20):
        for limits in ({}, {"num_clocks": 5}, {"max_updates": 15}):
            run = random_run(policy, seed, losses=True, **limits)  # its model judges too
            assert ssp.check_contract(run.drain()).merged == len(run.model.stalenesses)


def test_the_policy_of_the_page_does_what_it_says(policy_of_the_page):
    for workers, seed in ((1, 0), (4, 1), (7, 2)):
        runtime = ssp.Virtual(workers, delays.Exponential(), seed, compute=False)
        result = ssp.train(policy=policy_of_the_page(), runtime=runtime, num_clocks=5)
        sizes = [
            len(command.deltas)
            for _, _, commands in result.tape
            for command in commands
            if hasattr(command, "deltas")
        ]
        assert sizes == [2] * (5 * workers // 2) + [1] * (5 * workers % 2)


def written(section, folder):
    """The one file of a section, written to a folder."""
    (block,) = drills.blocks(section)
    drills.follow([block], folder)
    return folder / block.path


def test_a_policy_from_outside_is_run_overridden_and_proved(tmp_path, capsys):
    config, run = written("From outside the package", tmp_path), tmp_path / "run"
    assert jax_ssp("run", config, "--help") == DONE
    shown = capsys.readouterr().out
    assert re.search(r"--policy.size INT +How many \(deltas\). \(default: 3\)", shown)
    assert jax_ssp("run", config, "--policy.size", "2", "--workdir", run) == DONE
    recorded = json.loads((run / "config.json").read_text())["experiment"]["policy"]
    assert recorded == {"type": "MergeInGroups", "size": 2}
    assert jax_ssp("verify", run) == DONE
    assert jax_ssp("replay", run) == DONE
    sizes = ssp.read_tape(run / "tape.jsonl.gz")
    merges = [each for _, _, commands in sizes for each in commands if hasattr(each, "deltas")]
    assert {len(merge.deltas) for merge in merges} == {2}


def test_a_policy_is_named_on_the_command_line_of_another_config(tmp_path, capsys, monkeypatch):
    written("From outside the package", tmp_path)
    other, run = written("A field of a run", tmp_path), tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("my_study:MergeInGroups", "my_study.py:MergeInGroups")):
        words = ["--policy", name, "--policy.size", "2", "--workdir", f"{run}{number}"]
        assert jax_ssp("run", other, *words) == DONE
        said = json.loads((tmp_path / f"run{number}" / "config.json").read_text())
        assert said["experiment"]["policy"] == {"type": "MergeInGroups", "size": 2}
        assert said["parts"]["policy"]["file"] == str(tmp_path / "my_study.py")
        assert jax_ssp("replay", f"{run}{number}") == DONE
    sys.modules.pop("my_study")
    words = ["--policy", "MergeInGroups", "--workdir", run]
    assert jax_ssp("run", tmp_path / "my_study.py", *words) == DONE


@pytest.mark.slow
def test_a_program_of_ones_own_leaves_a_folder(tmp_path):
    program = written("A program of your own", tmp_path)
    said = drills.python(drills.ROOT, str(program), str(tmp_path / "run"))
    assert said.startswith("to show how 0.")
    assert jax_ssp("verify", tmp_path / "run") == DONE


# --- a mitigation -------------------------------------------------------------------------------

TRAINED_ON_TOKENS = """
import jax.numpy as jnp, numpy as np, optax
import jax_ssp as ssp
from jax_ssp.mitigations import scale_by_tokens

def loss_fn(params, batch, key):
    return -params["w"] * 1.0, {"tokens": batch}

def trained(delta_tx, runtime=None):
    return ssp.train(
        ssp.make_step(loss_fn, optax.sgd(1.0)),
        params={"w": jnp.zeros(())},
        data=lambda worker: iter([np.float32(50 + 100 * worker)] * 4),
        policy=ssp.BSP(),
        runtime=runtime or ssp.Virtual(num_workers=2),
        weight="sum",
        delta_tx=delta_tx,
        num_clocks=4,
    )

from jax_ssp.testing import check_mitigation
check_mitigation(scale_by_tokens(), corrects=True, keeps_out=True)
assert trained(None).params["w"] == 8.0
result = trained(scale_by_tokens(usual=100.0))
assert result.params["w"] == 4 * (0.5 + 1.5), result.params
result = trained(scale_by_tokens(usual=200.0))
assert result.params["w"] == 4 * (0.25 + 0.75), result.params
again = trained(scale_by_tokens(usual=200.0), ssp.Replay(result.tape))
assert again.params["w"] == result.params["w"]
"""


@pytest.mark.slow
def test_a_mitigation_with_a_new_fact_is_one_file_and_two_rows(tmp_path):
    file, *rows = drills.blocks("A mitigation")
    assert [each.is_change for each in (file, *rows)] == [False, True, True]
    changes = [line[0] for row in rows for line in row.text.splitlines()]
    assert (changes.count("+"), changes.count("-")) == (2, 0)
    root = drills.house(tmp_path)
    drills.follow([file, *rows], root)
    tests = ("mitigations/test_mitigations.py", "server/test_uphill.py", "test_pairs.py")
    words = "scale_by_tokens or mitigations.tokens or table_is_whole"
    files = [f"tests/{each}" for each in (*tests, "test_examples.py")]
    assert drills.passed(root, words, *files) >= 18
    drills.python(root, "-c", TRAINED_ON_TOKENS)


# --- a field of a run ---------------------------------------------------------------------------


def test_a_field_of_a_run_is_one_line(tmp_path, capsys):
    config, run = written("A field of a run", tmp_path), tmp_path / "run"
    assert jax_ssp("run", config, "--help") == DONE
    assert re.search(r"--edition INT +Of the data. \(default: 1\)", capsys.readouterr().out)
    assert jax_ssp("run", config, "--edition", "x") == USAGE
    assert jax_ssp("run", config, "--edition", "7", "--workdir", run) == DONE
    assert json.loads((run / "config.json").read_text())["experiment"]["edition"] == 7
    tape = ssp.read_tape(run / "tape.jsonl.gz")
    assert tape.header["experiment"]["edition"] == 7
    assert jax_ssp("verify", run) == DONE
    assert jax_ssp("replay", run) == DONE
    made = sys.modules["config_my_data"].get_config()
    assert (made.edition, made.describe()["edition"]) == (1, 1)
    with pytest.raises(ssp.TapeMismatch, match="edition: recorded 7, here 1"):
        made.run(runtime=ssp.Replay(tape))
