"""What this version writes and reads is, to the last number, what is kept here; what is older is
read, or refused by its format.

    run/            what `jax-ssp run line.py` leaves
    tape.jsonl.gz   a tape with every message
    old/            the same, of formats of before

`pytest tests/golden --rewrite-golden` writes the first two anew, once that is meant. What is of
another format by then goes to `old/` first.
"""

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.claim import FORMAT as FOLDER_FORMAT
from jax_ssp.cli.exits import DONE, USAGE
from jax_ssp.controller import (
    Cancel,
    DeltaReady,
    Drop,
    Fence,
    Merge,
    Merged,
    Resumed,
    SetTimer,
    StartAhead,
    StartClock,
    StopRequested,
    StopWorker,
    TimerFired,
    Token,
    WorkerDone,
    WorkerJoined,
    WorkerLost,
)
from jax_ssp.controller.commands import Command
from jax_ssp.controller.events import Event
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.tape_file import FORMAT as TAPE_FORMAT
from tests.helpers.command_line import as_it_was, jax_ssp

__all__ = ["as_it_was"]  # a fixture, for every test here

HERE = Path(__file__).parent
CONFIG, RUN, TAPE, OLD = HERE / "line.py", HERE / "run", HERE / "tape.jsonl.gz", HERE / "old"
BY_MACHINE = ("jax", "step", "server_tx", "delta_tx", "platforms")  # of what a header identifies
FIRST, SECOND, THIRD = Token(0, 0), Token(0, 1), Token(1, 2)
EVERY_MESSAGE = [
    (0.0, WorkerJoined(0), [StartClock(0, 0, 2, 0, (), 1, weight=1.0, token=FIRST)]),
    (
        0.5,
        DeltaReady(
            *(0, 0, 0, FIRST),
            steps=2,
            samples=64,
            finite=True,
            norm=1.5,
            exchange=(0.0, 0.0, 0.25),
            tokens=960,
        ),
        [
            Merge(1, (Merged(0, 0, 0, 0, 0, weight=1.0, token=FIRST),), 1, round=0),
            StartClock(0, 1, 2, 1, (), 1, weight=1.0, token=SECOND, round=2),
            StartAhead(0, 2, 2),
            SetTimer(4.0),
        ],
    ),
    (1.0, TimerFired(4.0), [SetTimer(None), Cancel(0, 1, "enough", SECOND)]),
    (1.5, WorkerJoined(0), [StartClock(0, 1, 2, 1, (), 1, weight=0.5, token=THIRD, round=2)]),
    (2.0, DeltaReady(0, 1, 1, THIRD, norm=float("inf"), finite=False), [Drop(0, 1, "late", THIRD)]),
    (2.5, WorkerDone(0, 1, SECOND), [Fence(0, 1, SECOND)]),
    (3.0, WorkerLost(0, "it hung", drops=True), []),
    (3.5, StopRequested("interrupted"), [StopWorker(0)]),
    (4.0, Resumed(1, num_clocks=8, max_updates=None, max_steps=None, max_samples=900), []),
]


def in_file(parts, name):
    """Parts of a config file's own, of which each says the file."""
    return {part: {**about, "file": name} for part, about in parts.items()}


@pytest.fixture(scope="module")
def here(tmp_path_factory, request):
    """What this version writes, with nothing in it of this machine, this place and this day."""
    run = tmp_path_factory.mktemp("golden") / "run"
    assert jax_ssp("run", CONFIG, "--workdir", run) == DONE
    for name in [*run.glob("events.*"), run / "summary.png", run / "terms.jsonl"]:
        name.unlink()
    config = json.loads((run / "config.json").read_text())
    config |= {"file": CONFIG.name, "overrides": [], "environment": {"jax_ssp": ssp.__version__}}
    config["parts"] = in_file(config["parts"], CONFIG.name)
    config["starts"] = [{**start, "at": ""} for start in config["starts"]]
    (run / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "wall_seconds": 0.0}, indent=2) + "\n")
    if request.config.getoption("--rewrite-golden"):
        rewrite(run)
    return ssp.read_run(run)


@pytest.fixture
def kept(here, tmp_path):
    """A copy of the run that is kept, which names its config file, and this JAX as its own."""
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text())
    config |= {"file": str(CONFIG), "parts": in_file(config["parts"], str(CONFIG))}
    (run / "config.json").write_text(json.dumps(config))
    tape = ssp.read_tape(run / "tape.jsonl.gz")
    identity = tape.header["experiment"]
    identity |= {name: each for name, each in of_machine(here.tape).items() if name in identity}
    ssp.write_tape(run / "tape.jsonl.gz", tape)
    return run


def of_machine(tape):
    return {name: each for name, each in tape.header["experiment"].items() if name in BY_MACHINE}


def of_all(tape):
    """A header, but for what depends on the machine."""
    kept = {n: each for n, each in tape.header["experiment"].items() if n not in BY_MACHINE}
    header = {name: each for name, each in tape.header.items() if name != "terms"}  # of that day
    return {**header, "experiment": kept}


def every_message():
    tape = Tape({"bound": 3, "note": "one of every message"})
    for row in EVERY_MESSAGE:
        tape.append(*row)
    tape.complete = True
    return tape


def rewrite(run):
    """Keep this run, and a tape of this version; what was of another format goes to `old`."""
    for path, number, now in (
        (RUN, folder_format, FOLDER_FORMAT),
        (TAPE, tape_format, TAPE_FORMAT),
    ):
        if path.exists() and number(path) != now:
            name = f"{path.name.partition('.')[0]}-{number(path)}"
            path.rename(OLD / (name + "".join(path.suffixes)))
    shutil.rmtree(RUN, ignore_errors=True)
    shutil.copytree(run, RUN)
    ssp.write_tape(TAPE, every_message())


def folder_format(run):
    return json.loads((run / "config.json").read_text()).get("format", 1)


def tape_format(file):
    with gzip.open(file) as lines:
        return json.loads(lines.readline())["format"]


def same(here, kept):
    """Equal, to the type and the last bit of each number."""
    assert json.dumps(here) == json.dumps(kept), MEANT


MEANT = "if that is meant: pytest tests/golden --rewrite-golden"


# What this version writes.


def test_a_run_leaves_what_is_kept_here(here):
    kept = ssp.read_run(RUN)
    same(here.config, kept.config)
    same(here.summary, kept.summary)
    same(of_all(here.tape), of_all(kept.tape))
    same(list(here.tape.lines()), list(kept.tape.lines()))
    assert here.tape.params == kept.tape.params, MEANT
    same(here.history, kept.history)
    same(here.evaluations, kept.evaluations)
    assert here.schedule.tolist() == kept.schedule.tolist()
    files = [sorted(each.name for each in run.path.iterdir()) for run in (here, kept)]
    assert files[0] == files[1], MEANT


def test_every_message_is_written_as_is_kept_here(here, tmp_path):
    ssp.write_tape(tmp_path / "tape.jsonl.gz", every_message())
    lines = [gzip.decompress(path.read_bytes()) for path in (tmp_path / "tape.jsonl.gz", TAPE)]
    assert lines[0] == lines[1], MEANT


# What this version reads.


def test_what_is_kept_here_is_what_its_config_file_says():
    digest = hashlib.sha256(CONFIG.read_bytes()).hexdigest()
    assert ssp.read_run(RUN).config["sha256"] == digest, MEANT


def test_every_message_is_read():
    tape = ssp.read_tape(TAPE)
    assert [tuple(row) for row in tape] == EVERY_MESSAGE
    assert (tape.complete, tape.params) == (True, None)
    said = [message for _, event, commands in tape for message in (event, *commands)]
    kinds = {*Event.__args__, *Command.__args__} - {Tape}
    assert {type(message) for message in said} == kinds, "a kind of message is missing here"


def test_the_run_that_is_kept_is_read():
    run = ssp.read_run(RUN)
    # After n updates the distance is 3 times something over 4^n: exact, whoever computes it.
    w = 3 - 3 * np.float32(0.05859375)
    assert run.params["w"].dtype == np.float32
    assert run.params["w"] == w
    assert run.status == "done"
    assert run.summary["metrics"] == run.evaluations[-1]["metrics"]
    assert run.evaluations[-1]["metrics"] == {"distance": float(w) - 3, "loss": 0.5}
    assert [row["merge_version"] for row in run.history] == [*range(1, 9)]
    assert run.schedule["staleness"].tolist() == [0, 0, 2, 0, 1, 0, 1, 0]


def test_the_run_that_is_kept_is_verified_and_repeated_to_the_last_bit(kept, capsys):
    assert jax_ssp("verify", kept) == DONE
    assert "contract kept" in capsys.readouterr().out
    assert jax_ssp("replay", kept) == DONE
    said = capsys.readouterr().out
    assert "10 events repeated, every answer of the controller the same" in said
    assert "parameters the same to the last bit (1 leaves)" in said


# What is of another format.


@pytest.mark.parametrize("file", sorted(OLD.glob("tape-*")), ids=lambda file: file.name)
def test_an_old_tape_is_refused_by_its_format_with_the_remedy(file, capsys):
    number = tape_format(file)
    assert number < TAPE_FORMAT
    words = f"is a tape of format {number}, and this version reads format {TAPE_FORMAT} alone"
    with pytest.raises(ValueError, match=f"{file.name} {words}; record the run again with it"):
        ssp.read_tape(file)
    assert jax_ssp("verify", file) == USAGE
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("folder", sorted(OLD.glob("run-*")), ids=lambda folder: folder.name)
def test_an_old_run_is_refused_by_its_format_with_the_remedy(folder, capsys):
    number = folder_format(folder)
    assert number < FOLDER_FORMAT
    words = f"is a run's folder of format {number}, by its config.json, and this version reads "
    words += (
        f"format {FOLDER_FORMAT} alone; run it again, or read it with the version that wrote it"
    )
    with pytest.raises(ValueError, match=f"{folder.name} {words} "):
        ssp.read_run(folder)
    for command in ("verify", "replay"):
        assert jax_ssp(command, folder) == USAGE
        said = capsys.readouterr().err
        assert words in said
        assert len(said.splitlines()) == 1


def test_there_are_old_ones():
    assert {path.name for path in OLD.iterdir()} >= {"run-1", "tape-3.jsonl.gz"}
