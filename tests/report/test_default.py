"""Whether a run shows its progress where nobody has said so."""

import io
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import jax_ssp as ssp
from tests.helpers.problems import linear

RUN = linear(policy=ssp.ASP(), runtime=ssp.Virtual(num_workers=2), num_clocks=2)


class LinearExperiment(ssp.Experiment):
    """An experiment without a workload."""

    def ready(self) -> Any:
        return self, ssp.Task(*linear().values())


class Screen(io.StringIO):
    """A stream that is shown to a person."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a run writes to standard error."""

    def run(stream: Any, through: Callable[..., Any] = ssp.train, **others: Any) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        through(**({**RUN, **others} if through is ssp.train else others))
        return "" if stream is None else stream.getvalue()

    return run


def test_a_person_at_a_terminal_sees_it_unless_it_is_to_be_quiet(shown: Any) -> None:
    assert "ASP() · 2 workers" in shown(Screen())
    assert shown(Screen(), progress=False) == ""
    assert shown(io.StringIO()) == ""
    assert shown(None) == ""
    assert "done after" in shown(io.StringIO(), progress=True)


def test_what_computes_nothing_shows_nothing_unless_asked(shown: Any) -> None:
    clockwork = {"runtime": ssp.Virtual(num_workers=2, compute=False)}
    clockwork |= dict.fromkeys(("step", "params", "data"))
    assert shown(Screen(), **clockwork) == ""
    assert "2 workers" in shown(Screen(), **clockwork, progress=True)


def test_an_experiment_does_likewise(shown: Any) -> None:
    experiment = LinearExperiment(name="mine", runtime=RUN["runtime"], num_clocks=2)
    assert "mine · SSP(bound=3" in shown(Screen(), experiment.run)
    assert shown(Screen(), experiment.run, progress=False) == ""
    assert shown(io.StringIO(), experiment.run) == ""


def test_one_among_the_observers_is_enough(shown: Any) -> None:
    for progress in (None, True):
        own = Console(file=io.StringIO())
        assert shown(Screen(), observers=[ssp.Progress(own)], progress=progress) == ""
        assert "done after" in own.file.getvalue()  # type: ignore[attr-defined]


def test_of_runs_side_by_side_none_is_shown(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    thread = threading.Thread(target=shown, args=(screen,))
    thread.start()
    thread.join()
    assert screen.getvalue() == ""
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    assert shown(Screen()) == ""


@pytest.mark.parametrize("progress", ["yes", 1, [], "None"])
def test_what_is_no_answer_is_refused(progress: Any) -> None:
    with pytest.raises(TypeError, match="`progress` must be True or False"):
        ssp.train(**RUN, progress=progress)


@pytest.mark.slow
def test_a_quiet_run_imports_nothing_that_draws() -> None:
    program = (
        "import sys, jax_ssp as ssp\n"
        "from tests.helpers.problems import linear\n"
        "ssp.train(**linear(runtime=ssp.Virtual(num_workers=2), num_clocks=2))\n"
        "print({'rich', 'matplotlib', 'IPython'} & set(sys.modules))"
    )
    words, root = [sys.executable, "-c", program], Path(ssp.__file__).parents[1]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root)
    assert (done.stdout, done.stderr) == ("set()\n", "")


# Notebooks.


class Handle:
    """One output of a cell, by its identifier."""

    def __init__(self, outputs: list[dict[str, str]]) -> None:
        self.outputs = outputs

    def update(self, output: dict[str, str], raw: bool) -> None:
        assert raw
        self.outputs[-1] = output


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The outputs of a notebook's cell, in which this process seems to be."""
    outputs: list[dict[str, str]] = []

    def display(output: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        outputs.append(output)
        return Handle(outputs)

    module = types.ModuleType("IPython")
    module.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    inner = types.ModuleType("IPython.display")
    inner.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    return outputs


def test_in_a_notebook_one_output_changes(shown: Any, cell: list[dict[str, str]]) -> None:
    assert shown(io.StringIO()) == ""
    (output,) = cell
    assert set(output) == {"text/html", "text/plain"}
    assert "· done at 2 s (virtual)" in output["text/plain"]
    assert output["text/html"].startswith("<pre style=")
    assert output["text/plain"].startswith("note: the optimizer is on the workers")
    assert shown(io.StringIO(), progress=False) == ""
    assert len(cell) == 1


def test_a_notebook_that_shows_nothing_ends_no_run(
    shown: Any, cell: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in (lambda *_, **__: 1 / 0, None):
        monkeypatch.setattr(sys.modules["IPython.display"], "display", broken)
        told = shown(io.StringIO())
        assert told.count("the progress cannot be shown") == 1
        assert cell == []


def test_at_the_prompt_of_ipython_there_is_no_cell(shown: Any, cell: list[dict[str, str]]) -> None:
    sys.modules["IPython"].get_ipython = lambda: object()  # type: ignore[attr-defined]
    assert "2 workers" in shown(Screen())
    assert cell == []
