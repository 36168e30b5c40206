"""What a person sees of a run: the live table, and the plain lines."""

import contextlib
import gc
import io
import os
import re
import subprocess
import sys
import threading
from typing import Any

import pytest
from rich.console import Console

from jax_ssp.controller.commands import Fence, Merge, Merged, StartClock, StopWorker
from jax_ssp.controller.events import (
    DeltaReady,
    StopRequested,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.report.progress import Progress
from jax_ssp.worker.waits import Waiting


class Clock:
    """Real time that stands still unless told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int = 110) -> Console:
    environment = {"TERM": "xterm-256color", "COLUMNS": str(width), "LINES": "60"}
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ=environment)


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40, _environ={})


def written(console: Console) -> str:
    """Without colours and cursor movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]


def last_screen(console: Console) -> list[str]:
    text = written(console)
    return text[text.rindex("demo · ") :].splitlines()


TOKEN = Token(0, 0)


class Run:
    """Feeds a `Progress` what a run would."""

    def __init__(self, progress: Progress, workers: int, batch: int = 0, **info: Any) -> None:
        self.progress = progress
        self.workers = workers
        self.updates = 0
        self.batch = batch
        about = {"name": "demo", "num_workers": workers, "num_clocks": 40, "max_updates": None}
        progress.on_start({**about, "policy": "SSP(bound=3)", "time": "virtual", **info})

    def join(self) -> None:
        for worker in range(self.workers):
            self.progress.on_entry(0.0, WorkerJoined(worker), [self.start(worker, 0)])

    def start(self, worker: int, clock: int) -> StartClock:
        return StartClock(worker, clock, 1, self.updates, (), self.workers, 1 / self.workers, TOKEN)

    def finish(self, now: float, worker: int, clock: int, go_on: bool = True) -> None:
        self.updates += 1
        row = {"worker": worker, "clock": clock, "start": now - 1, "finish": now, "lag": 0}
        row |= {"base_version": 0, "merge_version": self.updates, "staleness": 10 + worker}
        row |= {
            "steps": 2,
            "samples": 2 * self.batch,
            "samples_seen": self.updates * 2 * self.batch,
        }
        self.progress.on_clock({**row, "updates": self.updates, "metrics": {"loss": 0.5 + worker}})
        delta = Merged(worker, clock, 0, 10 + worker, 0, 1 / self.workers, TOKEN)
        merge = Merge(self.updates, (delta,), self.workers)
        commands = [merge, self.start(worker, clock + 1)] if go_on else [merge]
        self.progress.on_entry(now, DeltaReady(worker, clock, 0, TOKEN), commands)

    def evaluate(self, updates: int, **metrics: float) -> None:
        row = {"version": updates, "updates": updates, "time": 0.5 + updates, "passed_over": 0}
        row |= {"steps": 2 * updates, "samples": 2 * updates * self.batch}
        self.progress.on_eval({**row, "metrics": metrics})


def table_row(screen: list[str], worker: int) -> list[str]:
    (row,) = [line.split() for line in screen if line.split()[:1] == [str(worker)]]
    return [cell for cell in row if not set(cell) <= set("━╸╺")]


def test_the_table_shows_every_worker() -> None:
    console, clock = terminal(), Clock()
    run = Run(Progress(console, clock=clock), 4)
    run.join()
    run.finish(1.0, 0, 0)
    run.finish(2.0, 0, 1, go_on=False)
    run.finish(3.0, 1, 0)
    run.progress.on_entry(3.5, WorkerLost(2), [StopWorker(3)])
    run.progress.on_entry(3.5, WorkerDone(1, 2, TOKEN), [Fence(1, 2, TOKEN)])  # late
    run.evaluate(3, test_accuracy=0.9375)
    clock.now += 1
    run.finish(4.0, 1, 1)
    screen = last_screen(console)
    assert "SSP(bound=3)" in screen[0]
    assert "4 workers" in screen[0]
    assert "4 s (virtual)" in screen[0]
    assert "updates 4/160 · 4/s · version 4 · lag 2 · staleness 10.5" in screen[1]
    assert screen[2].strip() == "eval at update 3: test_accuracy 0.938"
    assert table_row(screen, 0) == ["0", "2/40", "2", "waiting", "2", "s", "10", "0.5"]
    assert table_row(screen, 1) == ["1", "2/40", "2", "running", "0", "s", "11", "1.5"]
    assert table_row(screen, 2) == ["2", "0/40", "lost"]
    assert table_row(screen, 3) == ["3", "0/40", "0", "finished"]
    run.progress.on_end("done")


def test_a_worker_whose_data_has_ended_counts_no_more() -> None:
    console, clock = terminal(), Clock()
    run = Run(Progress(console, clock=clock), 3)
    run.join()
    run.finish(1.0, 1, 0)
    run.finish(1.0, 2, 0)
    run.progress.on_entry(1.5, WorkerDone(0, 0, TOKEN), [])
    clock.now += 1
    run.finish(2.0, 1, 1)
    screen = last_screen(console)
    assert "lag 1" in screen[1]
    assert table_row(screen, 0) == ["0", "0/40", "ended"]
    run.progress.on_end("done")


def test_many_workers_are_summed_up() -> None:
    console, clock = terminal(), Clock()
    run = Run(Progress(console, clock=clock), 40)
    run.join()
    for worker in range(1, 40):
        run.finish(1.0, worker, 0)
    run.finish(2.0, 7, 1, go_on=False)
    run.progress.on_entry(2.5, WorkerLost(9), [])
    clock.now += 1
    run.finish(3.0, 8, 1)
    screen = [" ".join(line.split()) for line in last_screen(console)]
    assert "workers 38 running 1 waiting 1 lost" in screen
    assert any(line.startswith("slowest worker 0 at 0/40 running 3 s") for line in screen)
    assert any(line.startswith("fastest worker 7 at 2/40 waiting 1 s") for line in screen)
    assert any(re.match(r"lag 0 ▁█▁ 2 \(median 1\)", line) for line in screen)
    assert any(re.match(r"staleness 11 \S+ 49 ", line) for line in screen)
    assert len(screen) < 15
    run.progress.on_end("done")


def test_it_draws_on_the_interval_only() -> None:
    console, clock = terminal(), Clock()
    run = Run(Progress(console, interval=0.5, clock=clock), 2)
    run.join()
    before = written(console)
    for number in range(100):
        clock.now += 0.004
        run.finish(number, number % 2, number // 2)
    assert written(console) == before
    clock.now += 0.11
    run.finish(101, 0, 50)
    assert "51/40" in written(console)[len(before) :]
    run.progress.on_end("stopped")
    assert "demo · SSP(bound=3) · 2 workers · 40 clocks · stopped" in written(console)


def test_slow_drawing_is_done_more_rarely() -> None:
    clock = Clock()
    console = pipe()
    out = console.out

    def slow(*args: Any, **kwargs: Any) -> None:
        clock.now += 1.0
        out(*args, **kwargs)

    console.out = slow  # type: ignore[method-assign]
    run = Run(Progress(console, interval=0.0, clock=clock), 1)
    run.finish(0.0, 0, 0)
    clock.now += 49
    run.finish(1.0, 0, 1)
    assert written(console).count("updates ") == 1
    clock.now += 2
    run.finish(2.0, 0, 2)
    assert written(console).count("updates ") == 2


def test_the_terminal_is_given_back() -> None:
    console = terminal()
    before, threads = (sys.stdout, sys.stderr), set(threading.enumerate())
    run = Run(Progress(console), 1)
    assert set(threading.enumerate()) <= threads  # no thread draws
    run.progress.on_end("failed")
    run.progress.on_end("failed")
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined]
    assert (sys.stdout, sys.stderr) == before
    assert set(threading.enumerate()) <= threads


def test_the_terminal_is_given_back_even_if_the_end_never_comes() -> None:
    console = terminal()
    before = (sys.stdout, sys.stderr)
    run = Run(Progress(console), 1)
    run.join()
    del run
    gc.collect()
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined]
    assert (sys.stdout, sys.stderr) == before


def test_one_progress_can_watch_run_after_run() -> None:
    console = terminal()
    progress = Progress(console)
    for _ in range(2):
        run = Run(progress, 2)
        run.join()
        run.finish(1.0, 0, 0)
        progress.on_end("done")
        assert last_screen(console)[1].startswith("updates 1/80 ")
    progress.on_start({"name": "unfinished"})
    progress.on_start({"name": "demo"})
    progress.on_end("stopped")


def test_plain_lines_come_every_few_seconds() -> None:
    console, clock = pipe(), Clock()
    run = Run(Progress(console, clock=clock), 2, num_clocks=None, max_updates=200)
    run.join()
    for number in range(120):
        run.finish(float(number), number % 2, number // 2)
        clock.now += 0.125
    run.evaluate(120, acc=0.94, loss=0.2131)
    run.progress.on_end("done")
    assert written(console).splitlines() == [
        "demo · SSP(bound=3) · 2 workers · 200 updates",
        "updates 41/200 · 8.2/s · 20 %, 19.4 s left · version 41 · lag 1 · staleness 10.5 "
        "· loss 0.988",
        "updates 81/200 · 8.1/s · 40 %, 14.7 s left · version 81 · lag 1 · staleness 10.5 "
        "· loss 0.994",
        "eval at update 120: acc 0.94 loss 0.213",
        "done after 15 s · updates 120/200 · 8/s · version 120 · lag 0 · staleness 10.5 · loss 1",
    ]


@pytest.mark.parametrize(
    ("end", "most", "way"),
    [
        ("max_samples", 1280, "50 %, 10 s left"),
        ("max_steps", 80, "50 %, 10 s left"),
        ("max_updates", 30, "66 %, 5 s left"),
        ("num_clocks", 25, "40 %, 15 s left"),  # both are at clock 10
    ],
)
def test_it_says_how_far_it_is_and_when_it_ends(end: str, most: int, way: str) -> None:
    console, clock = terminal(160), Clock()
    ends = {"num_clocks": None, "max_steps": 1000, "max_samples": 10**6, end: most}
    run = Run(Progress(console, interval=0.5, clock=clock), 2, batch=16, **ends)
    run.join()
    for number in range(20):
        clock.now += 0.5
        run.finish(float(number), number % 2, number // 2)
    screen = last_screen(console)
    assert f"2/s · 64 samples/s · {way} · version 20" in screen[1]
    run.evaluate(20, loss=0.25)
    run.progress.on_end("done")
    _, rates, *below = [line.strip() for line in last_screen(console)]
    assert "left" not in rates
    bars = [line for line in below if line and set(line) <= set("━╸╺")]
    assert len(bars) == (end != "num_clocks")  # else each worker has one
    assert "eval at update 20, 640 samples: loss 0.25" in below


@pytest.mark.parametrize("console", [terminal(), pipe()], ids=["terminal", "pipe"])
def test_what_is_to_be_said_of_a_run_is_said_once(console: Console) -> None:
    run = Run(Progress(console, interval=0.0, clock=Clock()), 2, remarks=["[b]one[/b] $x$", "two"])
    run.join()
    run.finish(1.0, 0, 0)
    run.progress.on_end("done")
    lines = [line.strip() for line in written(console).splitlines()]
    assert [each for each in lines if "note" in each] == ["note: [b]one[/b] $x$", "note: two"]


def test_plain_lines_without_knowing_much() -> None:
    console, clock = pipe(), Clock()
    progress = Progress(console, interval=1.0, clock=clock)
    progress.on_start({"num_workers": 1, "num_clocks": None, "max_updates": None, "policy": "ASP"})
    clock.now += 2
    progress.on_entry(1.0, DeltaReady(0, 3, 0, TOKEN), [])
    assert written(console).splitlines()[1] == "updates 0 · 0/s · version 0 · lag 0"


def test_a_resumed_run_has_an_honest_rate() -> None:
    console, clock = pipe(), Clock()
    run = Run(Progress(console, clock=clock), 1)
    run.updates = 5000
    for clock_number in range(20):
        clock.now += 0.5
        run.finish(1.0, 0, 100 + clock_number)
    run.progress.on_end("interrupted")
    assert "interrupted after 10 s · updates 5020/40 · 2/s" in written(console)


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None])
def test_losses_that_are_no_numbers_do_no_harm(loss: float | None) -> None:
    console, clock = terminal(), Clock()
    run = Run(Progress(console, clock=clock), 1)
    run.join()
    row = {"worker": 0, "clock": 0, "updates": 1, "merge_version": -1, "staleness": 0}
    row |= {"steps": 1, "samples": 4, "samples_seen": 0}
    run.progress.on_clock({**row, "metrics": {} if loss is None else {"loss": loss}})
    run.progress.on_end("diverged")
    assert table_row(last_screen(console), 0)[-1] == ("s" if loss is None else str(loss))


@pytest.mark.parametrize("console", [terminal(), pipe()], ids=["terminal", "pipe"])
def test_an_interrupt_is_answered_at_once(console: Console) -> None:
    """Before the clocks under way have finished, which may take long."""
    run = Run(Progress(console, interval=1e9, clock=Clock()), 2)
    run.join()
    run.progress.on_entry(1.0, StopRequested("target"), [])
    assert "interrupt" not in written(console)
    run.progress.on_entry(1.0, StopRequested("interrupted"), [])
    assert "finishing the clocks under way (interrupt again to leave them)" in written(console)
    run.progress.on_end("interrupted")


class Breaking(io.StringIO):
    """A stream whose reader goes away after some writes."""

    def __init__(self, writes: int, error: BaseException) -> None:
        super().__init__()
        self.left, self.error = writes, error

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("on_terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("writes", [0, 1, 3])
@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(32, "Broken pipe"),
        OSError(5, "Input/output error"),
        ValueError("I/O operation on closed file"),
        UnicodeEncodeError("ascii", "·", 0, 1, "ordinal not in range(128)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_display_that_fails_ends_nothing_and_leaves_the_output_alone(
    on_terminal: bool, writes: int, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (sys.stdout, sys.stderr)
    console = Console(file=Breaking(writes, error), force_terminal=on_terminal, _environ={})
    run = Run(Progress(console, interval=0.0), 2)
    run.join()
    for clock in range(4):
        run.finish(1.0, 0, clock)
        run.evaluate(1, accuracy=0.5)
    run.progress.on_wait([Waiting(1, "computes clock 0", 9.0)])
    run.progress.on_entry(1.0, StopRequested("interrupted"), [])
    run.progress.on_end("done")
    assert (sys.stdout, sys.stderr) == before
    print("here")
    shown = capfd.readouterr()
    assert shown.out == "here\n"
    assert shown.err.count("the progress cannot be shown") == isinstance(error, ValueError)


def test_standard_error_that_nobody_reads_neither_ends_nor_silences_a_run() -> None:
    """Where a pipe is broken, rich would exit, and send standard output to nowhere."""
    program = """
from jax_ssp.controller.events import WorkerJoined
from jax_ssp.report.progress import Progress
progress = Progress(interval=0.0)
progress.on_start({"name": "demo"})
progress.on_entry(0.0, WorkerJoined(0), [])
progress.on_end("done")
print("here")
"""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-c", program]
    for environment in ({}, {"FORCE_COLOR": "1", "TTY_INTERACTIVE": "1"}):
        done = subprocess.run(
            words, env=os.environ | environment, stdout=subprocess.PIPE, stderr=writer, text=True
        )
        assert done.stdout == "here\n"
    os.close(writer)


def test_a_pipe_that_nobody_empties_holds_nothing_up() -> None:
    reader, writer = os.pipe()
    with open(writer, "w") as file, open(reader):
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)  # from here on a write would wait for good
        run = Run(Progress(Console(file=file, force_terminal=False), interval=0.0), 1)
        run.join()
        run.progress.on_end("done")
        assert set(os.read(reader, 1 << 20)) == {ord("x")}


@pytest.mark.parametrize("console", [terminal(), pipe()], ids=["terminal", "pipe"])
def test_it_says_whom_all_wait_for_until_something_happens(console: Console) -> None:
    clock = Clock()
    run = Run(Progress(console, clock=clock), 2)
    run.join()
    run.progress.on_wait([Waiting(1, "waits for batch 3 of its data", 9.2, 8.0)])
    assert "all wait: worker 1 waits for batch 3 of its data (9 s)" in " ".join(
        written(console).split()
    )
    clock.now += 10
    before = len(written(console))
    run.finish(1.0, 0, 0)
    assert "0.1/s" in written(console)[before:]
    assert "all wait" not in written(console)[before:]
    run.progress.on_entry(1.0, StopRequested("interrupted"), [])
    run.progress.on_wait([Waiting(1, "computes clock 0", 30.0)])
    assert "to end, the run waits (interrupt again to end at once): worker 1 computes" in " ".join(
        written(console).split()
    )
    run.progress.on_end("interrupted")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp437"])
def test_lines_have_the_letters_that_there_are(encoding: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    run = Run(Progress(Console(file=file, force_terminal=False), interval=0.0), 1)
    run.join()
    run.progress.on_end("done")
    file.flush()
    first = file.buffer.getvalue().decode(encoding).splitlines()[0]  # type: ignore[attr-defined]
    mark = " | " if encoding == "ascii" else " · "
    assert first == mark.join(("demo", "SSP(bound=3)", "1 workers", "40 clocks"))


@pytest.mark.parametrize("columns", ["0", "1", "100000", "-3", "many"])
def test_a_terminal_of_any_width_is_drawn_on(columns: str) -> None:
    environment = {"TERM": "xterm-256color", "COLUMNS": columns, "LINES": columns}
    console = Console(file=io.StringIO(), force_terminal=True, _environ=environment)
    run = Run(Progress(console, interval=0.0), 2)
    run.join()
    run.finish(1.0, 0, 0)
    run.progress.on_end("done")
    assert not run.progress._failed
