"""Where a person sits, and what there is to do for more devices of the CPU."""

import sys
import types

import pytest

from jax_ssp.surroundings import is_terminal, more_cpu_devices, surroundings


@pytest.fixture
def sits(monkeypatch):
    """Makes this process look like another kind of it."""

    def at(where):
        module = types.ModuleType("IPython")
        shell = types.SimpleNamespace(**({"kernel": 1} if where == "notebook" else {}))
        module.get_ipython = {"broken": None, "imported": lambda: None}.get(where, lambda: shell)
        if where == "python":
            monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
        elif where != "script":
            monkeypatch.setitem(sys.modules, "IPython", module)

    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    return at


@pytest.mark.parametrize(
    ("where", "expected", "remedy"),
    [
        ("notebook", "notebook", "Restart the kernel, and run `import jax; jax.config.update("),
        ("ipython", "prompt", "Start Python anew, with JAX_NUM_CPU_DEVICES=8"),
        ("python", "prompt", "Start Python anew"),
        ("script", "script", "Run it with JAX_NUM_CPU_DEVICES=8 in the environment, or begin it"),
        ("imported", "script", "Run it with"),
        ("broken", "script", "Run it with"),
    ],
)
def test_where_a_person_sits_says_what_to_do(sits, where, expected, remedy):
    sits(where)
    assert surroundings() == expected
    assert more_cpu_devices(8).startswith(remedy)


def test_a_stream_that_is_not_there_is_no_terminal():
    with open(__file__) as closed:
        pass
    assert not any(map(is_terminal, (None, closed, object())))
