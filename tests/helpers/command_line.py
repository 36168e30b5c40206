"""The command line, called in this process, or in a fresh one."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jax_ssp.cli import main

COMMAND = "from jax_ssp.cli import main; main()"
CACHE = {"XDG_CACHE_HOME": str(Path(tempfile.gettempdir(), "jax_ssp_tests"))}


def jax_ssp(*words: object) -> int:
    """Call `main`; gives the exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def fresh_process(*arguments: object, command: str = COMMAND) -> subprocess.Popen:
    words = [sys.executable, "-c", command, *map(str, arguments)]
    environment = {**os.environ, **CACHE, "PYTHONFAULTHANDLER": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment)


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
