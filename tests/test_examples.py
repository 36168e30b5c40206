"""What the documentation shows works: examples in docstrings, and the README's."""

import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jax_ssp
import jax_ssp as ssp
from jax_ssp import delays
from tests.helpers.harness import random_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(jax_ssp.__path__, prefix="jax_ssp.")
)


def examples_in(name):
    """The docstrings of a module that hold examples."""
    found = doctest.DocTestFinder().find(importlib.import_module(name))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_work(name):
    for test in examples_in(name):
        said = []
        outcome = doctest.DocTestRunner().run(test, out=said.append)
        assert outcome.failed == 0, "".join(said)


@pytest.mark.parametrize(
    "name",
    [
        "Controller",
        "SSP",
        "Server",
        "Tape",
        "check_contract",
        "make_nnx_step",
        "make_step",
        "train",
    ],
)
def test_the_main_names_show_an_example(name):
    thing = getattr(ssp, name)
    tests = examples_in(thing.__module__)
    assert f"{thing.__module__}.{name}" in {test.name for test in tests}


def blocks(section):
    """The Python blocks of one section of the README."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_example_in_the_readme_runs_as_it_is(capsys):
    (program,) = blocks("An example")
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "contract kept: 400 reads checked, bound 3 clocks" in said
    assert "SSP(bound=3, adopt='eager') on 4 workers: done" in said
    # It learns what it is about: the answer is 0, 1, .., 7.
    for result in (names["result"], names["rehearsal"]):
        np.testing.assert_allclose(result.params["w"], np.arange(8), atol=0.05)
        assert result.history[-1]["metrics"].keys() == {"loss", "mse"}


def test_adding_a_policy_as_the_readme_says_is_one_file_and_one_row(tmp_path):
    """Followed to the letter in a copy of the tree, where the contract tests take it in."""
    for folder in ("jax_ssp", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = README.split("\n## Add a policy\n")[1]
    (file,) = re.findall(r"`(jax_ssp/policies/\w+\.py)`:", text)
    (program,) = blocks("Add a policy")
    (tmp_path / file).write_text(program)
    name = re.findall(r"class (\w+)\(Policy\)", program)[0]
    table = tmp_path / "jax_ssp" / "policies" / "__init__.py"
    row = "ALL_POLICIES: tuple[type[Policy], ...] = (\n"
    assert row in table.read_text()
    imported = f"from jax_ssp.policies.{Path(file).stem} import {name}\n"
    table.write_text(imported + table.read_text().replace(row, f"{row}    {name},\n"))
    words = ["pytest", "-q", "-k", name, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", *words, "tests/policies/test_policies.py", "tests/controller"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 3  # the rules of the house; any schedule, ahead and not


@pytest.fixture
def policy_of_the_readme(tmp_path, monkeypatch):
    """The policy that the README adds, from the file that it says to write."""
    (program,) = blocks("Add a policy")
    (tmp_path / "added_policy.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("added_policy")
    yield module.MergeInPairs
    del sys.modules["added_policy"]


def test_the_policy_in_the_readme_keeps_the_contract_on_any_schedule(policy_of_the_readme):
    policy = policy_of_the_readme()
    assert repr(policy) == "MergeInPairs()"
    for seed in range(20):
        for limits in ({}, {"num_clocks": 5}, {"max_updates": 15}):
            run = random_run(policy, seed, losses=True, **limits)  # its model judges too
            assert ssp.check_contract(run.drain()).merged == len(run.model.stalenesses)


def test_the_policy_in_the_readme_does_what_it_says(policy_of_the_readme):
    for workers, seed in ((1, 0), (4, 1), (7, 2)):
        runtime = ssp.Virtual(workers, delays.Exponential(), seed, compute=False)
        result = ssp.train(policy=policy_of_the_readme(), runtime=runtime, num_clocks=5)
        sizes = [
            len(command.deltas)
            for _, _, commands in result.tape
            for command in commands
            if hasattr(command, "deltas")
        ]
        assert sizes == [2] * (5 * workers // 2) + [1] * (5 * workers % 2)
        assert ssp.check_contract(result.tape).merged == 5 * workers
