"""Several values after a flag: which runs they make, how these are called, what is refused."""

import json
from pathlib import Path

import pytest

import jax_ssp as ssp
from jax_ssp.cli.config_file import chosen
from jax_ssp.cli.exits import DONE, USAGE
from jax_ssp.cli.several import Group, grouped
from jax_ssp.cli.usage import Ended, UsageError
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

CONFIG = '''"""Nothing to learn."""

from dataclasses import dataclass

import jax_ssp as ssp


@dataclass(frozen=True)
class Several(ssp.Workload):
    widths: tuple[int, ...] = (8,)
    learning_rate: float = 0.1
    rates: tuple[float, float] = (0.1, 0.2)

    def build(self, num_workers, seed):
        raise AssertionError("nothing is built")


def get_config():
    runtime = ssp.Virtual(num_workers=2, compute=False)
    return ssp.Experiment("line", workload=Several(), runtime=runtime, num_clocks=2)
'''
SWEEP = """

def get_sweep():
    return [ssp.Experiment(name, runtime=ssp.Virtual(2, compute=False), num_clocks=clocks)
            for name, clocks in {"short": 2, "long": 4}.items()]
"""


@pytest.fixture
def made(tmp_path):
    """Words -> the runs that they make."""
    (tmp_path / "line.py").write_text(CONFIG)
    (tmp_path / "sweep.py").write_text(CONFIG + SWEEP)

    def made(*words: str, file: str = "line.py"):
        return chosen(tmp_path / file, list(words))[0]

    return made


def named(runs) -> list[tuple[str, int]]:
    return [(each.experiment.name, each.experiment.seed) for each in runs]


def test_a_product_is_a_sweep_whose_names_tell_the_values(made):
    runs = made("--policy.bound", "0", "3", "--overlap", "0", "1", "--seed", "4", "5")
    policies = [(each.experiment.policy, each.experiment.overlap) for each in runs[::2]]
    assert policies == [(ssp.SSP(bound), overlap) for bound in (0, 3) for overlap in (0, 1)]
    assert named(runs) == [
        (f"line, SSP(bound={bound}), overlap={overlap}", seed)
        for bound in (0, 3)
        for overlap in (0, 1)
        for seed in (4, 5)
    ]


def test_seeds_alone_leave_the_name(made):
    assert named(made("--seed", "0", "1")) == [("line", 0), ("line", 1)]


def test_each_run_of_a_sweep_is_multiplied(made):
    runs = made("--seed", "0", "1", "--policy", "BSP", "ASP", file="sweep.py")
    assert [each.index for each in runs] == [0] * 4 + [1] * 4
    assert named(runs) == [
        (f"{length}, {policy}", seed)
        for length in ("short", "long")
        for policy in ("BSP", "ASP")
        for seed in (0, 1)
    ]


def test_a_field_of_some_of_the_named_parts_is_set_where_it_is_there(made):
    runs = made("--policy", "BSP", "SSP", "KSync", "--policy.bound", "1", "2", "--policy.k=2")
    policies = [each.experiment.policy for each in runs]
    assert policies == [ssp.BSP(), ssp.SSP(1), ssp.SSP(2), ssp.KSync(2)]
    names = ["BSP", "SSP(bound=1)", "SSP(bound=2)", "KSync"]
    assert [name for name, _ in named(runs)] == [f"line, {name}" for name in names]


def test_a_field_that_none_of_the_named_parts_has_is_refused(made, capsys):
    with pytest.raises(Ended):
        made("--policy", "BSP", "SSP", "--policy.buond", "1", "2")
    assert "--policy.buond" in capsys.readouterr().err


def test_a_field_that_takes_several_values_keeps_its_meaning(made):
    (run,) = made("--workload.widths", "8", "16", "32")
    assert run.experiment.workload.widths == (8, 16, 32)
    (run,) = made("--workload.rates", "0.5", "0.25")
    assert run.experiment.workload.rates == (0.5, 0.25)
    assert run.experiment.name == "line"


def test_a_field_of_the_workload_goes_by_its_own_name(made):
    runs = made("--learning-rate", "0.1", "0.3")
    assert [each.experiment.workload.learning_rate for each in runs] == [0.1, 0.3]
    assert [name for name, _ in named(runs)] == [
        f"line, learning_rate={rate}" for rate in (0.1, 0.3)
    ]
    assert made("--num-workers", "5")[0].experiment.runtime.num_workers == 5


def test_a_name_of_two_fields_says_both(made, tmp_path):
    text = CONFIG.replace("learning_rate: float", "num_workers: int = 1\n    learning_rate: float")
    (tmp_path / "line.py").write_text(text)
    both = "--num-workers could be --runtime.num-workers or --workload.num-workers"
    with pytest.raises(UsageError, match=both) as refused:
        made("--num-workers", "5")
    assert str(refused.value).endswith("give one of them")


def test_negative_numbers_are_values(made):
    runs = made("--weight", "-0.5", "sum", "1e-1")
    assert [each.experiment.weight for each in runs] == [-0.5, "sum", 0.1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--policy.bound", "1", "1"], "0 ('line, SSP(bound=1)', seed 0) and 1 ("),
        (["--seed", "3", "3"], "0 ('line', seed 3) and 1 ('line', seed 3)"),
        (["--name", "one", "other"], "0 ('one, name=one', seed 0) and 1 ('other, "),
    ],
)
def test_runs_that_are_the_same_are_refused(words, told, made):
    with pytest.raises(UsageError) as refused:
        made(*words)
    assert told in str(refused.value)
    assert str(refused.value).endswith("give each value of a flag once")


@pytest.mark.parametrize("flag", ["--workdir", "--jobs"])
def test_an_option_of_the_command_takes_one_value(flag, made):
    with pytest.raises(UsageError, match=f"{flag} takes one value, got 1 2"):
        made(flag, "1", "2")


def test_a_value_that_does_not_fit_is_told_with_its_flag(made, capsys):
    with pytest.raises(Ended) as ended:
        made("--policy.bound", "1", "few")
    assert ended.value.code == USAGE
    shown = capsys.readouterr().err
    assert "--policy.bound" in shown
    assert "few" in shown


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_a_number_of_jobs_that_cannot_be_ends_with_2(jobs, made, tmp_path, capsys):
    words = ("--seed", "0", "1", "--workdir", tmp_path / "out", "--jobs", jobs)
    assert jax_ssp("run", tmp_path / "line.py", *words) == USAGE
    assert "--jobs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_the_runs_of_a_sweep(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jax_ssp.cli.run._dry_run", lambda experiment: DONE)
    words = ("--policy", "BSP", "SSP", "--policy.bound", "1", "2", "--seed", "7")
    assert jax_ssp("run", tmp_path / "line.py", *words, "--dry-run") == DONE
    shown = capsys.readouterr().out
    assert "3 runs" in shown
    for name in ("line, BSP", "line, SSP(bound=1)", "line, SSP(bound=2)"):
        assert name in shown


def test_a_member_is_known_by_the_words_that_make_it_alone(made, tmp_path):
    """So that a run of a product can be replayed like any other."""
    words = ("--policy", "BSP", "SSP", "--policy.bound", "1", "2", "--jobs", "1")
    assert jax_ssp("run", tmp_path / "sweep.py", *words, "--workdir", tmp_path / "out") == DONE
    runs = ssp.checkpoint.runs_in(tmp_path / "out")
    assert len(runs) == 6
    for run in runs:
        content, index = run.config["overrides"], run.config["index"]
        (again,), _ = chosen(Path(run.config["file"]), content, only=index)
        assert json.loads(json.dumps(again.experiment.describe())) == run.config["experiment"]
    last = runs[-1]
    assert last.config["index"] == 1
    assert last.config["experiment"]["name"] == "long, SSP(bound=2)"


def test_words_go_by_the_flag_before_them():
    words = ["stray", "--a", "1", "-2", "--b=3", "--c"]
    groups = [Group("", ("stray",)), Group("--a", ("1", "-2")), Group("--b", ("3",))]
    assert grouped(words) == [*groups, Group("--c", ())]
