"""What the documentation shows works: examples in docstrings, and the README's."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import jax_ssp
import jax_ssp as ssp

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
