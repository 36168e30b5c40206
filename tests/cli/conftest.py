"""Small config files, the folder of a run, and pictures, which few tests have drawn.

Pictures take most of the time of a small run.
"""

import shutil
from pathlib import Path

import pytest

import jax_ssp.checkpoint.run_folder as run_folder
from jax_ssp.cli import main
from jax_ssp.cli.exits import DONE
from tests.helpers.eventful import EVENTS
from tests.helpers.line_config import CONFIG, written


@pytest.fixture
def config(tmp_path) -> Path:
    return written(tmp_path / "line.py", CONFIG)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that is done; not to be written into."""
    folder = tmp_path_factory.mktemp("finished")
    file = written(folder / "line.py", CONFIG)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(file), "--workdir", str(folder / "run")])
    assert ended.value.code == DONE
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of such a folder, to be tampered with."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def eventful(tmp_path, monkeypatch):
    """Writes a config in whose run something happens; gives the words of the command."""
    monkeypatch.setattr(run_folder, "FLUSH_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def words(event: str, where: str = "evaluation") -> list[object]:
        text = CONFIG + EVENTS.replace("EVENT", event).replace("WHERE", repr(where))
        file = written(tmp_path / "line.py", text)
        return ["run", file, "--workdir", tmp_path / "run"]

    return words


@pytest.fixture
def comparisons():
    """What a test asks for whose sweeps are to be drawn."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Runs of this process are not drawn, and sweeps only where a test asks for it."""
    monkeypatch.setattr("jax_ssp.report.timeline.run_summary", lambda *_: None)
    if "comparisons" not in request.fixturenames:
        monkeypatch.setattr("jax_ssp.report.sweep.sweep_figure", lambda *_: None)
