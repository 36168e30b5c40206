"""How a result, a run's folder and a proof look where a person asks for them."""

import io
from pathlib import Path

import pytest
from rich.console import Console

import jax_ssp as ssp
from tests.helpers.problems import linear

RUNTIME = ssp.Virtual(num_workers=2)
NAMED = {"name": "mine <b> $x$", "policy": ssp.SSP(1), "runtime": RUNTIME}
HEADING = "mine <b> $x$: SSP(bound=1, adopt='eager') on 2 workers"


@pytest.fixture(scope="module")
def result():
    return ssp.train(**linear(**NAMED, num_clocks=3, evaluate=lambda params: {"loss": 0.25}))


def on_terminal(shown):
    console = Console(file=io.StringIO(), width=200)
    console.print(shown)
    return console.file.getvalue()


def test_a_result_says_in_a_line_what_was_run_and_what_came_of_it(result):
    assert repr(result).startswith(f"Result(done: {HEADING}, 6 updates in ")
    assert repr(result).endswith("virtual seconds, loss 0.25)")


def test_a_result_on_a_terminal_is_a_table(result):
    title, *rows = on_terminal(result).splitlines()
    assert title.strip() == HEADING
    assert rows.pop().startswith("- the optimizer is on the workers")
    cells = {row.split()[0]: " ".join(row.split()[1:]) for row in rows}
    assert cells["status"] == "done"
    assert cells["updates"] == "6 in 6 versions"
    assert (cells["steps"], cells["samples"]) == ("6", str(result.samples))
    assert cells["loss"] == "0.25"
    assert list(cells)[:4] == ["status", "updates", "steps", "samples"]
    assert list(cells)[4:] == ["time", "computing", "staleness", "loss"]


def test_in_a_notebook_its_figure_is_there_too(result):
    html = result._repr_html_()
    assert "<b>mine &lt;b&gt; $x$: SSP(bound=1" in html
    assert "<li>the optimizer is on the workers" in html
    assert 'src="data:image/png;base64,iVBORw0KGgo' in html


def test_what_cannot_be_drawn_is_shown_without(monkeypatch):
    monkeypatch.setattr("jax_ssp.report.timeline.run_summary", lambda *_: 1 / 0)
    result = ssp.train(runtime=ssp.Virtual(2, compute=False), num_clocks=1)
    html = result._repr_html_()
    assert "<img" not in html
    assert "2 in 2 versions" in html
    assert "samples" not in html  # since nothing was computed
    assert repr(result).startswith("Result(done: SSP(bound=3")


def test_what_cannot_be_told_is_no_error(result, monkeypatch):
    monkeypatch.setattr(ssp.Result, "schedule", property(lambda _: 1 / 0))
    assert "ZeroDivisionError" in result._repr_html_()
    assert "division by zero" in on_terminal(result)


def test_a_figure_goes_to_a_file_of_any_kind(result, tmp_path: Path):
    result.draw(tmp_path / "run.svg")
    assert "<svg" in (tmp_path / "run.svg").read_text()


def test_a_proof_is_short_where_it_is_looked_at(result):
    report = ssp.check_contract(result.tape)
    assert repr(report) == (
        "ContractReport(kept, by what SSP(bound=1, adopt='eager') promises: 6 reads, bound 1 "
        f"clocks, lag at most {report.max_lag}, staleness at most {report.max_staleness})"
    )
