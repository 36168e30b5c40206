"""Every benchmark runs as its header says, and writes the table that it promises.

How fast anything is, no test asserts: machines differ.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks.common import arguments
from experiments.benchmarks.memory import measured

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "overhead": "model batch workers local_steps policy ratio_to_bound ratio_to_sync",
    "clock": "bytes part cpu_us wall_us",
    "stragglers": "delays workers policy ratio_to_bsp predicted_ratio_to_bsp",
    "merge": "bytes placement server ratio_to_numpy",
    "controller": "workers us_per_event bytes_per_worker",
    "simulator": "workers delay compute batch clocks_per_second",
    "network": "local_steps wire overlap clocks devices virtual ratio computing kept",
    "copies": "way leaves megabytes milliseconds of_bound by_leaf",
    "cluster": "what seconds updates_a_second of_bare of_devices",
    "memory": "model mode worker_multiple server_multiple versions_alive",
    "peers": "model batch workers local_steps stragglers system ratio_to_bound steps_per_second",
}


@pytest.fixture(autouse=True)
def standard_environment(monkeypatch):
    """The number of devices is theirs to choose."""
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)


def test_all_benchmarks_are_tested():
    folder = ROOT / "experiments" / "benchmarks"
    files = {file.stem for file in folder.glob("[!_]*.py")} - {"bare", "common", "ledger"}
    assert files | {main.parent.name for main in folder.glob("*/__main__.py")} == set(COLUMNS)


def test_an_option_that_is_false_by_default_is_a_flag():
    assert arguments("", [], measure=False).measure is False
    assert arguments("", ["--measure"], measure=False).measure is True
    assert arguments("", ["--seed", "3"], seed=0).seed == 3


@pytest.mark.parametrize("mode", ["BSP()", "SSP(3), lazy", "SSP(3), int8 deltas"])
def test_memory_is_counted_in_the_parts_of_jax_ssp_that_are_there(mode):
    row = measured(1, 32, mode, clocks=2)
    assert row["worker_multiple"] >= 2  # at least a snapshot and a delta
    assert row["server_multiple"] >= 2  # a version and the next
    assert row["versions_alive"] >= 2


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.parametrize("name", COLUMNS)
def test_a_quick_run_writes_its_table(name, tmp_path):
    file = tmp_path / "table.json"
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", "--quick", "--json", file]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert name in done.stdout

    table = json.loads(file.read_text())
    assert table.keys() == {"meta", "rows"}
    assert table["meta"]["benchmark"] == name
    assert table["meta"]["quick"] is True
    assert {"date", "jax", "cores", "devices"} <= table["meta"].keys()
    assert table["rows"]
    for row in table["rows"]:
        assert list(row) == COLUMNS[name].split()
        numbers = [value for value in row.values() if not isinstance(value, (str, bool))]
        assert numbers
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
    rows = [json.dumps(row) for row in table["rows"]]
    assert len(set(rows)) == len(rows)
