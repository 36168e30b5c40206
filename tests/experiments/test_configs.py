"""Every config file loads, says what it is, is listed, and the small ones do what they promise."""

import importlib.util
import inspect
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import jax_ssp as ssp
from tests.helpers.data_sets import small_archive, small_idx_files

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


def has_sizes(file: Path) -> bool:
    return "size: Size" in file.read_text()


SIZED = [file for file in FILES if has_sizes(file)]


def experiments_of(file: Path) -> list[ssp.Experiment]:
    """What a config gives, at each of its sizes."""
    module = loaded(file)
    if hasattr(module, "get_sweep"):
        return module.get_sweep()
    if file not in SIZED:
        return [module.get_config()]
    assert inspect.signature(module.get_config).parameters["size"].default == "laptop"
    return [module.get_config(size) for size in ("smoke", "laptop", "paper")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_loads_and_describes_runs_that_can_end(file):
    sweep = experiments_of(file)
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


def test_configs_of_several_sizes_are_known():
    language = {f"lm_{name}" for name in ("ssp", "diloco", "async", "streaming", "decoupled")}
    assert {file.stem for file in SIZED} >= language | {"fashion_ssp", "cifar10_ssp"}


@pytest.mark.parametrize("file", SIZED, ids=lambda file: file.stem)
@pytest.mark.slow
def test_a_config_runs_at_its_smallest_size(file, standard_promotion, tmp_path):
    """On a text of its own, so that no file of this Python decides."""
    config = loaded(file).get_config("smoke")
    config = replace(config, workload=of_small_data(config.workload, tmp_path))
    result = config.run(progress=False)
    assert result.status == "done"
    assert result.updates
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics
    assert result.tokens == result.samples * getattr(config.workload, "context", 0)
    ssp.check_contract(result.tape)


def of_small_data(workload: ssp.Workload, folder: Path) -> ssp.Workload:
    if hasattr(workload, "text"):
        (folder / "text").write_bytes(b"To be, or not to be, that is the question. " * 200)
        return replace(workload, text=folder / "text")
    archives = {"Cifar10": small_archive, "Fashion": small_idx_files}
    return replace(workload, folder=archives[type(workload).__name__](folder))


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
