"""Every config file loads, says what it is, is listed, and the small ones do what they promise."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jax_ssp as ssp

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(file for file in FOLDER.glob("*.py") if file.name != "__init__.py")


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER.parent)


def loaded(file: Path):
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(file: str, folder: Path) -> dict:
    """Run a config as its header says; gives the summary."""
    command = "from jax_ssp.cli import main; main()"
    words = [sys.executable, "-c", command, "run", str(FOLDER / file), "--workdir", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ssp.read_run(folder).summary


def test_there_are_configs():
    assert {file.stem for file in FILES} >= {"linear_ssp", "digits_ssp", "digits_compare"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_loads_and_describes_runs_that_can_end(file):
    module = loaded(file)
    sweep = module.get_sweep() if hasattr(module, "get_sweep") else [module.get_config()]
    assert sweep
    for experiment in sweep:
        assert isinstance(experiment, ssp.Experiment)
        assert experiment.ends != ssp.Ends() or experiment.num_epochs
        json.dumps(experiment.describe(), allow_nan=False)
    # Equal runs would be one too many.
    assert len({json.dumps(each.describe()) for each in sweep}) == len(sweep)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_opens_with_a_header(file):
    title, *header = (loaded(file).__doc__ or "").split("\n\n")
    assert title.endswith(".")
    names = re.findall(r"^(\w+): ", "\n".join(header), flags=re.MULTILINE)
    assert names == ["Paper", "Command", "Time", "Expected"]
    assert f"Command:  jax-ssp run experiments/{file.name}\n" in "\n".join(header)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_has_a_row_in_the_readme(file):
    rows = [line for line in (FOLDER / "README.md").read_text().splitlines() if "|" in line]
    (row,) = [row for row in rows if f"({file.name})" in row]
    assert f"`jax-ssp run experiments/{file.name}`" in row


def test_linear_ssp_gives_what_it_promises():
    result = loaded(FOLDER / "linear_ssp.py").get_config().run()
    assert result.status == "done"
    assert result.metrics["distance"] <= 0.01
    ssp.check_contract(result.tape)


@pytest.mark.slow
def test_digits_ssp_gives_what_it_promises(tmp_path):
    summary = run("digits_ssp.py", tmp_path / "run")
    assert summary["status"] == "done"
    assert summary["metrics"]["test_accuracy"] >= 0.97
    assert summary["max_lag"] <= 4
