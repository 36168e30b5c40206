"""A folder through several lives, each killed at any row: its files say what has happened, once."""

import contextlib
import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import jax_ssp as ssp
from jax_ssp.checkpoint.agreement import settings_of
from jax_ssp.checkpoint.events import EVENTS
from jax_ssp.checkpoint.metrics import read_metrics
from jax_ssp.checkpoint.position import START
from jax_ssp.controller import DeltaReady
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.tape_file import read_tape
from jax_ssp.runtimes.plan import Plan
from tests.checkpoint.test_metrics import clock_row, scalars

PLAN = Plan(policy=ssp.SSP(1), runtime=ssp.Virtual(3, compute=False), num_clocks=48)
HEADER, ROWS = {}, []  # of a run of more than two packs of a tape
NEVER = float("inf")


def setup_module():
    tape = ssp.train(policy=PLAN.policy, runtime=PLAN.runtime, num_clocks=48).tape
    ROWS.extend(tape)
    HEADER.update(
        {**tape.header, "devices": [["cpu", 0]] * 3, "server": [["cpu", 0]]}
    )  # as if something was computed
    assert len(ROWS) > 130


def measured(first, last):
    """What is told between these rows: a row for each push, with its number as its metric."""
    rows = [(n, ROWS[n].event) for n in range(first, last)]
    return [clock_row(n, metrics={"loss": float(n)}) for n, e in rows if type(e) is DeltaReady]


class Life:
    """A process that writes a run into a folder, until it is killed."""

    def __init__(self, path, cuts):
        self._cuts = cuts
        self._folder = ssp.RunFolder(path)
        past = self._folder.prepare(settings_of(PLAN.checked()), "auto")
        self.there = 0 if past is None else len(past.tape)
        self.cut, position = next(each for each in reversed(cuts) if each[0] <= self.there)
        if past is not None:
            assert list(past.tape) == ROWS[: self.there]
            history, _ = past.history(position)
            assert [row["metrics"]["loss"] for row in history] == losses(measured(0, self.cut))
        self._folder.go_on(position)
        self._tape = Tape(HEADER)
        self._folder.on_start({**HEADER, "num_workers": 3, "tape": self._tape})
        for row in ROWS[: self.cut]:
            self._tape.append(*row)

    def happens(self, number, flushes, saves):
        """A row happens, and what follows from it."""
        entry = ROWS[number]
        self._tape.append(*entry)
        for row in measured(number, number + 1):
            self._folder.on_clock(row)
        self._folder._due = -NEVER if flushes else NEVER
        self._folder.on_entry(*entry)
        if saves:
            position = self._folder.position()
            self._folder.sync()
            self._cuts.append((number + 1, position))

    def ends(self):
        self._tape.complete = True
        self._folder.on_end("done")
        self._folder.close()

    def is_killed(self, torn):
        """Nothing is written any more, and the last bytes that nobody has waited for are gone."""
        path = self._folder.path
        sizes = {each: each.stat().st_size for each in path.iterdir() if each.suffix != ".lock"}
        self._folder._tape._file.close()
        self._folder._metrics.close()
        self._folder.close()
        for file, size in sizes.items():
            with contextlib.suppress(FileNotFoundError):
                os.truncate(file, size)
        tape = path / "tape.jsonl.gz"
        content = tape.read_bytes()
        tape.write_bytes(content[: len(content) - torn])


def losses(rows):
    return [row["metrics"]["loss"] for row in rows]


EVERY = st.sampled_from((1, 3, 10, 40, 500))
LIVES = st.lists(st.tuples(st.integers(1, 146), EVERY, EVERY, st.booleans()), max_size=4)


@settings(
    deadline=None,
    max_examples=15,
    phases=(Phase.explicit, Phase.generate),  # to shrink one takes minutes
    suppress_health_check=[*HealthCheck],
)
@given(lives=LIVES)
def test_the_files_of_several_lives_say_what_has_happened_once(tmp_path_factory, lives):
    path = tmp_path_factory.mktemp("lives") / "run"
    cuts = [(0, START)]
    for killed, flush_every, save_every, torn in lives:
        life = Life(path, cuts)
        last = min(max(killed, life.there + 1), len(ROWS) - 1)
        written = life.there
        for number in range(life.cut, last):
            # A run is not saved while its past happens again.
            saving = number % save_every == save_every - 1 and number >= life.there
            flushing = number % flush_every == 0
            life.happens(number, flushing, saving)
            if flushing or saving:
                written = max(written, number + 1)
        assert list(read_tape(path / "tape.jsonl.gz")) == ROWS[:written]
        safe = cuts[-1][0]
        life.is_killed(torn=1 if torn and written > max(safe, life.there) else 0)
        assert len(read_tape(path / "tape.jsonl.gz")) >= (safe if torn else written)
    life = Life(path, cuts)
    for number in range(life.cut, len(ROWS)):
        life.happens(number, False, False)
    life.ends()
    tape = read_tape(path / "tape.jsonl.gz")
    assert (list(tape), tape.complete) == (ROWS, True)
    assert losses(read_metrics(path)) == losses(measured(0, len(ROWS)))


def test_curves_of_several_lives_have_each_point_once(tmp_path):
    cuts = [(0, START)]
    for first, saves, killed in ((0, 40, 90), (40, 70, 100), (70, 99, 110)):
        life = Life(tmp_path / "run", cuts)
        assert life.cut == first
        for number in range(first, killed):
            life.happens(number, True, number + 1 == saves)
        life.is_killed(torn=0)
    assert len([*(tmp_path / "run").glob(EVENTS)]) == 3
    life = Life(tmp_path / "run", cuts)
    for number in range(life.cut, len(ROWS)):
        life.happens(number, False, False)
    life.ends()
    for points in scalars(tmp_path / "run").values():
        steps = [step for step, _ in points]
        assert len(steps) == len({*steps})


def test_a_file_that_somebody_cuts_while_it_is_written_is_not_filled_with_zeros(tmp_path, capsys):
    life = Life(tmp_path / "run", [(0, START)])
    for number in range(70):
        life.happens(number, True, number == 69)
    for name in ("tape.jsonl.gz", "metrics.jsonl"):
        os.truncate(tmp_path / "run" / name, 10)
    life.happens(70, True, False)
    said = capsys.readouterr().err
    assert "tape.jsonl.gz cannot be written: somebody has cut it" in said
    with pytest.raises(OSError, match="cut it"):
        life._folder.position()
    life._folder._metrics._rows.flush()
    for name in ("tape.jsonl.gz", "metrics.jsonl"):
        assert (tmp_path / "run" / name).stat().st_size == 10
    assert not life._folder._metrics.whole
    life.is_killed(torn=0)
