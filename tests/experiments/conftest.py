"""What the tests of papers share: each paper is measured once, whoever asks for it."""

import fcntl
import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Name -> the folder of a run at size smoke, as a user would get it.

    The processes of pytest-xdist share it: who comes second waits for the first.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    folder.mkdir(exist_ok=True)

    @functools.cache
    def measured(name):
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / name / "README.md").is_file():  # which is written last
                command = "from jax_ssp.cli import main; main()"
                words = ["reproduce", name, "--size", "smoke", "--seeds", "2"]
                words += ["--folder", str(folder / name)]
                subprocess.run(
                    [sys.executable, "-c", command, *words], cwd=ROOT, check=True, timeout=300
                )
        return folder / name

    return measured


@pytest.fixture(scope="module")
def measured(request, smoke):
    """A paper, its name (the fixture's parameter) and its rows."""
    name = request.param
    rows = json.loads((smoke(name) / f"{name}.json").read_text())["rows"]
    return name, importlib.import_module(f"experiments.papers.{name}").PAPER, rows
