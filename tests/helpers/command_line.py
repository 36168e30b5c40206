"""The command line, called in this process."""

import signal
import sys

import pytest

from jax_ssp.cli import main


def jax_ssp(*words: object) -> int:
    """Call `main`; gives the exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def as_it_was():
    """What `main` changes in a process is changed back; for every test of who imports this."""
    path, modules, handler = list(sys.path), set(sys.modules), signal.getsignal(signal.SIGTERM)
    yield
    sys.path[:] = path
    signal.signal(signal.SIGTERM, handler)
    for name in set(sys.modules) - modules:
        if name.startswith(("config_", "part_")):
            del sys.modules[name]
