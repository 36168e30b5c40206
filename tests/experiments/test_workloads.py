"""The examples in what configs share are executed."""

import doctest
import importlib

import pytest

from tests.experiments.test_configs import FOLDER

NAMES = sorted(file.stem for file in (FOLDER / "workloads").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_right(name):
    module = importlib.import_module(f"experiments.workloads.{name}")
    assert doctest.testmod(module).failed == 0
