"""The public names: what an editor is told of them is what there is."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import jax_ssp as ssp
from jax_ssp import checkpoint, data, testing


def told(module):
    """What a module with lazy names tells a type checker: from name to where it is imported."""
    tree = ast.parse(Path(module.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    [block] = [node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING"]
    names = {}
    for node in block.body:
        for alias in node.names:
            if alias.name == "*":  # so that a policy is one row, in the table of all
                room = vars(importlib.import_module(node.module))
                names |= dict.fromkeys((each for each in room if each[0] != "_"), node.module)
            else:
                names[alias.name] = node.module
    return names


@pytest.mark.parametrize("module", [ssp, checkpoint, data, testing])
def test_an_editor_is_told_of_each_lazy_name_where_it_is(module):
    known = told(module)
    assert set(module.__all__) <= set(known)
    for name in module.__all__:
        there = importlib.import_module(known[name])
        found = getattr(there, name, None) or importlib.import_module(f"{known[name]}.{name}")
        assert getattr(module, name) is found


def test_the_package_says_that_it_has_types():
    assert (Path(ssp.__file__).parent / "py.typed").exists()


def test_its_help_names_all_that_is_public():
    named = set(re.findall(r"\w+", ssp.__doc__))
    methods = {each.__name__ for each in ssp.policies.ALL_POLICIES}  # which are in `policies`
    assert set(ssp.__all__) - methods <= named


def test_a_name_that_is_not_there_can_be_guessed():
    with pytest.raises(AttributeError, match="has no attribute 'trian'") as error:
        ssp.trian  # noqa: B018
    assert (error.value.name, error.value.obj) == ("trian", ssp)  # Python then proposes `train`
