"""`--size`: what a config of several sizes runs, and that what repeats a run knows its size."""

import json
from typing import Literal

import pytest

import jax_ssp as ssp
from jax_ssp.cli.config_file import chosen
from jax_ssp.cli.exits import DONE, USAGE
from jax_ssp.cli.sizes import sized
from jax_ssp.cli.usage import UsageError
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

CONFIG = '''
"""Of three sizes."""

from __future__ import annotations

from typing import Literal

import jax_ssp as ssp

CLOCKS = {"smoke": 2, "laptop": 20, "paper": 200}


def get_config(size: Literal["smoke", "laptop", "paper"] = "laptop") -> ssp.Experiment:
    runtime = ssp.Virtual(num_workers=3, compute=False)
    return ssp.Experiment(name="sized", runtime=runtime, num_clocks=CLOCKS[size])
'''


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "sized.py"
    file.write_text(CONFIG)
    return file


@pytest.mark.parametrize(
    ("words", "clocks"),
    [([], 20), (["--size", "smoke"], 2), (["--seed", "1", "--size=paper", "--name", "x"], 200)],
)
def test_a_config_is_made_at_the_size_asked_for(config, words, clocks):
    ((experiment, _, overrides),), _ = chosen(config, words)
    assert experiment.num_clocks == clocks
    ((again, _, _),), _ = chosen(config, overrides)  # what a run's folder keeps makes it again
    assert again == experiment


def test_a_field_is_overridden_in_it_and_several_values_make_a_sweep(config):
    runs, _ = chosen(config, ["--policy.bound", "0", "1", "--size", "smoke", "--seed", "0", "1"])
    assert [(run.experiment.policy.bound, run.experiment.seed) for run in runs] == [
        (0, 0), (0, 1), (1, 0), (1, 1)
    ]  # fmt: skip
    for run in runs:
        assert run.experiment.num_clocks == 2
        assert chosen(config, run.overrides)[0][0].experiment == run.experiment


def test_a_run_of_a_size_is_replayed(config, tmp_path, capsys):
    assert jax_ssp("run", config, "--size", "smoke", "--workdir", tmp_path / "run") == DONE
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["overrides"][:2] == ["--size", "smoke"]
    assert ssp.read_run(tmp_path / "run").summary["updates"] == 6
    assert jax_ssp("replay", tmp_path / "run") == DONE


def test_help_says_which_sizes_there_are(config, capsys):
    assert jax_ssp("run", config, "--help") == DONE
    assert "--size smoke|laptop|paper (laptop)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "smok"], "must be one of smoke, laptop, paper, got 'smok'; did you mean smoke"),
        (["--size"], "takes one of smoke, laptop, paper, got nothing"),
        (["--size", "smoke", "laptop"], "takes one of smoke, laptop, paper, got smoke laptop"),
        (["--size", "smoke", "--size=paper"], "got smoke paper"),
    ],
)
def test_a_size_that_there_is_not_is_said(config, words, said, capsys):
    with pytest.raises(UsageError, match=said):
        chosen(config, words)
    assert jax_ssp("run", config, *words) == USAGE


def plain():
    """Without sizes."""


def open_ended(size: int = 3):
    """Its size has no names."""


def named(size: Literal["a"] = "a"):
    """Of one size."""


def test_where_there_are_no_sizes_the_words_are_left_alone():
    """There `--size` may be short for a field, such as a policy's."""
    words = ["--size", "4", "--name="]
    for function in (plain, open_ended, None, print):
        assert sized(function, words).rest == words
    assert sized(named, ["--name=", "--size", "a", "-5"]).rest == ["--name=", "-5"]
