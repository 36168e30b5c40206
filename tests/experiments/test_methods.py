"""`methods.py` has a row for every method there is, and so has the README; each of them learns."""

import re
from pathlib import Path

import pytest

from experiments import methods
from jax_ssp.compression import ALL_COMPRESSORS
from jax_ssp.mitigations import ALL_MITIGATIONS
from jax_ssp.policies import ALL_POLICIES, ALL_SCHEDULES

README = Path(__file__).parents[2] / "experiments" / "README.md"
ROWS = {experiment.name: experiment for experiment in methods.get_sweep()}
POLICIES, SCHEDULES, COMPRESSORS = (
    {each.__name__: each for each in table}
    for table in (ALL_POLICIES, ALL_SCHEDULES, ALL_COMPRESSORS)
)


def test_every_method_has_its_row_and_no_other_has():
    assert list(ROWS) == [*POLICIES, *SCHEDULES, *ALL_MITIGATIONS, *COMPRESSORS]
    assert len(ROWS) == len(methods.get_sweep())


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_run_as_it_comes(name):
    assert ROWS[name].policy == POLICIES[name]()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_run(name):
    assert type(ROWS[name].local_steps) is SCHEDULES[name]


@pytest.mark.parametrize("name", ALL_MITIGATIONS)
def test_a_mitigation_is_run(name):
    transforms = ROWS[name].delta_tx, ROWS[name].server_tx
    assert name in {type(each).__name__ for each in transforms}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressor_is_run_as_it_comes(name):
    assert ROWS[name].delta_wire == COMPRESSORS[name]()


def test_all_run_under_the_same_straggler():
    assert len({repr(experiment.runtime) for experiment in ROWS.values()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_method_learns_the_digits(name):
    result = ROWS[name].run()
    assert result.status == "done"
    assert result.metrics["test_accuracy"] >= 0.95


@pytest.mark.parametrize("name", ROWS)
def test_a_method_has_a_row_in_the_readme_with_its_paper_and_file(name):
    section = README.read_text().split("\n## Methods\n")[1].split("\n## ")[0]
    (row,) = [line for line in section.splitlines() if line.startswith(f"| `{name}`")]
    assert re.search(r"\]\(https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/\S+|\S+)\)", row)
    (file,) = re.findall(r"\]\((\.\./jax_ssp/\S+\.py)\)", row)
    path = README.parent / file
    assert path.is_file()
    assert re.search(rf"^(class|def) {name}\b", path.read_text(), flags=re.MULTILINE)
