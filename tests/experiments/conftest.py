"""What the tests of papers share."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory):
    """A paper, its name (the fixture's parameter) and its rows, as a user would get them."""
    folder = tmp_path_factory.mktemp(request.param)
    command = "from jax_ssp.cli import main; main()"
    words = ["reproduce", request.param, "--size", "smoke", "--seeds", "2", "--folder", folder]
    subprocess.run([sys.executable, "-c", command, *words], cwd=ROOT, check=True, timeout=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        paper = importlib.import_module(f"experiments.papers.{request.param}").PAPER
    return request.param, paper, json.loads((folder / f"{request.param}.json").read_text())["rows"]
