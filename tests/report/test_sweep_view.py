"""What is seen of a sweep while it goes."""

import io

import pytest
from rich.console import Console

from jax_ssp.report.sweep_view import SweepView, told_progress

RUNS = [("BSP", 0), ("SSP(3)", 0), ("SSP(3)", 1)]


def console(height: int = 20, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=80, height=height, force_terminal=terminal)


def test_one_line_a_run_those_that_go_on_first() -> None:
    now = [0.0]
    view = SweepView(RUNS, True, console=console(), clock=lambda: now[0])
    with view:
        view.started(0)
        view.started(1)
        now[0] = 3.0
        view.said(1, "updates 3/9")
        view.ended(0, "done, loss 0.5")
        head, running, over, coming = shown(view)
        assert head == "3 runs: 1 running · 1 over · 1 to come"
        assert running.split() == ["SSP(3),", "seed", "0", "3", "s", "updates", "3/9"]
        assert over.split() == ["BSP,", "seed", "0", "done,", "loss", "0.5", "(3", "s)"]
        assert coming.split() == ["SSP(3),", "seed", "1", "to", "come"]


def shown(view: SweepView) -> list[str]:
    out = console(terminal=False)
    out.print(view.screen())
    assert isinstance(out.file, io.StringIO)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def test_names_go_without_what_all_begin_with_and_those_not_run_are_told() -> None:
    runs = [(f"line, SSP(bound={bound}), overlap=1", 0) for bound in (0, 1)]
    view = SweepView(runs, True, console=console())
    view.ended(0, "interrupted")
    view.ended(1, "not run")
    head, first, second = shown(view)
    assert head == "2 runs: 1 over · 1 not run"
    assert first.startswith("SSP(bound=0), overlap=1, seed 0  interrupted")
    assert second.startswith("SSP(bound=1), overlap=1, seed 0  not run")


def test_what_has_no_room_is_counted() -> None:
    view = SweepView([("SSP", seed) for seed in range(30)], True, console=console(height=10))
    for number in range(12, 16):
        view.started(number)
    view.ended(13, "failed: it was wrong")
    rows = shown(view)
    assert rows[0] == "30 runs: 3 running · 1 over · 26 to come"
    assert len(rows) == 8
    assert [row.split()[2] for row in rows[1:5]] == ["12", "14", "15", "13"]


def test_elsewhere_a_line_for_each_start_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    view = SweepView(RUNS, True, console=console(terminal=False), clock=lambda: now[0])
    with view:
        view.started(1)
        view.said(1, "updates 3/9")
        now[0] = 2.5
        view.ended(1, "done")
        view.ended(2, "done, read from 02-SSP(3)-seed1")
    assert capsys.readouterr().out.splitlines() == [
        "[2/3] SSP(3), seed 0",
        "[2/3] SSP(3), seed 0: done (2.5 s)",
        "[3/3] SSP(3), seed 1: done, read from 02-SSP(3)-seed1",
    ]


def test_nothing_is_said_where_nobody_asks(capsys: pytest.CaptureFixture[str]) -> None:
    view = SweepView(RUNS, False, console=console(terminal=False))
    with view:
        view.started(0)
        view.ended(0, "done")
    assert capsys.readouterr() == ("", "")


def test_the_progress_of_a_run_is_told_line_by_line() -> None:
    told: list[str] = []
    progress = told_progress(told.append)
    progress.on_start({"name": "line", "num_clocks": 3, "num_workers": 2})
    progress.on_end("done")
    assert told[0] == "line · 2 workers · 3 clocks"
    assert told[-1].startswith("done after ")
    assert "updates 0/6" in told[-1]
