"""A checkpoint may be as it was written, and bad: what comes of it shows that."""

import shutil

import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.claim import TAPE
from jax_ssp.checkpoint.step import load_step
from jax_ssp.checkpoint.suspect import Suspicion
from jax_ssp.controller import DeltaReady, Resumed, StopRequested, Token
from jax_ssp.controller.commands import Drop, Fence
from jax_ssp.controller.tape_file import read_tape
from jax_ssp.failures import AGAIN, DIVERGED
from jax_ssp.runtimes.cut import SpoiledCheckpoint
from tests.helpers.problems import bits, linear, loss_fn

DIVERGES = StopRequested("diverged: 3 clocks in a row of worker 0 are not finite")
STEP = ssp.make_step(loss_fn, optax.sgd(0.05, momentum=0.9))


class Stop(ssp.Observer):
    def __init__(self, updates=20):
        self._updates = updates

    def on_clock(self, row):
        if row["updates"] == self._updates:
            raise OSError("broken off")


class Spoiling:
    """Batches that are not finite in one process, from one of them on."""

    def __init__(self, first=10**9):
        self.first = first

    def __call__(self, worker):
        rng = np.random.default_rng(worker)
        for number in range(40):
            x = rng.normal(size=(4, 6)).astype(np.float32)
            yield x * np.float32(np.nan if number >= self.first else 1.0), np.ones(4, np.float32)


def spec(folder, data):
    found = linear(step=STEP, policy=ssp.SSP(1), num_clocks=14, runtime=ssp.Virtual(2))
    return {**found, "data": data, "checkpoint": ssp.Checkpoints(folder, every=2, keep=9)}


def steps_in(folder):
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


def broken_off(folder):
    with pytest.raises(OSError, match="broken off"):
        ssp.train(**spec(folder, Spoiling()), observers=[Stop()])
    return steps_in(folder)


def test_what_is_not_finite_after_a_load_sets_the_checkpoint_aside(tmp_path, capsys):
    whole = ssp.train(**spec(tmp_path / "whole", Spoiling()))
    folder = tmp_path / "run"
    steps = broken_off(folder)
    with pytest.raises(SpoiledCheckpoint, match=r"within 3 clocks|was finite before") as caught:
        ssp.train(**spec(folder, Spoiling(first=10)))
    assert caught.value.exit_code == AGAIN
    left = steps_in(folder)
    assert left == steps[:-1]
    assert (folder / "checkpoints" / f"{steps[-1]}.suspect" / "why.txt").exists()
    load_step(folder / "checkpoints" / str(left[-1]))
    again = ssp.train(**spec(folder, Spoiling()))  # the machine is sound again
    assert "is damaged" not in capsys.readouterr().err, "the tape is as it is to be"
    assert (again.status, bits(again.params)) == ("done", bits(whole.params))
    assert again.history == whole.history
    assert ssp.check_contract(again.tape)


@pytest.mark.slow
def test_what_comes_of_an_older_one_too_is_the_fault_of_no_checkpoint(tmp_path):
    whole = ssp.train(**spec(tmp_path / "whole", Spoiling()))
    folder = tmp_path / "run"
    steps = broken_off(folder)
    rows = len(read_tape(folder / TAPE))
    for code in (AGAIN, DIVERGED):
        with pytest.raises(SpoiledCheckpoint) as caught:
            ssp.train(**spec(folder, Spoiling(first=11)))
        assert caught.value.exit_code == code
        assert len(read_tape(folder / TAPE)) == rows
        there = [each.name for each in (folder / "checkpoints").glob("*.suspect")]
        assert there == ([f"{steps[-1]}.suspect"] if code == AGAIN else [])
    (told,) = [each for each in caught.value.__notes__ if "restored" in each]
    assert "neither is to blame, but the data, or the step" in told
    assert f"(those of rows {steps[-1]})" in told
    assert steps_in(folder) == steps
    again = ssp.train(**spec(folder, Spoiling()))  # its data is mended
    assert (again.status, bits(again.params)) == ("done", bits(whole.params))


@pytest.mark.parametrize("first", [2, 11])  # in the tape, or behind it
@pytest.mark.every(2)
def test_the_only_checkpoint_comes_back_if_the_run_from_the_start_is_no_better(tmp_path, first):
    folder = tmp_path / "run"
    steps = broken_off(folder)
    for each in steps[:-1]:
        shutil.rmtree(folder / "checkpoints" / str(each))
    codes = []
    for data in (Spoiling(first=11), Spoiling(first=first)):
        with pytest.raises(SpoiledCheckpoint) as caught:
            ssp.train(**spec(folder, data))
        codes.append(caught.value.exit_code)
    assert codes == [AGAIN, DIVERGED]
    assert steps_in(folder) == steps[-1:]


@pytest.mark.slow
def test_where_there_is_no_checkpoint_none_is_to_blame(tmp_path):
    folder = tmp_path / "run"
    for each in broken_off(folder):
        shutil.rmtree(folder / "checkpoints" / str(each))
    with pytest.raises(SpoiledCheckpoint, match="goes on from its first row") as caught:
        ssp.train(**spec(folder, Spoiling(first=2)))
    assert caught.value.exit_code == DIVERGED
    assert any("no checkpoint is to blame" in each for each in caught.value.__notes__)


def test_what_was_not_finite_before_is_not_held_against_it(tmp_path):
    """That is on the tape, and comes again."""
    folder = tmp_path / "run"
    faults = [ssp.faults.NaN(0, 3), ssp.faults.NaN(1, 8)]
    runtime = ssp.Virtual(2, faults=faults)
    given = {**spec(folder, Spoiling()), "runtime": runtime}
    with pytest.raises(OSError, match="broken off"):
        ssp.train(**given, observers=[Stop()])
    assert ssp.train(**given).status == "done"


@pytest.mark.slow
def test_rows_of_earlier_terms_stay_on_the_tape(tmp_path):
    """What turns out before this process begins its own term has added nothing to the tape."""
    folder = tmp_path / "run"
    broken_off(folder)
    with pytest.raises(OSError, match="broken off"):
        ssp.train(**spec(folder, Spoiling()), observers=[Stop(22)])
    rows = len(read_tape(folder / TAPE))
    with pytest.raises(SpoiledCheckpoint, match="was finite before"):
        ssp.train(**spec(folder, Spoiling(first=10)))
    assert len(read_tape(folder / TAPE)) == rows
    again = ssp.train(**spec(folder, Spoiling()))
    assert (again.status, again.resumes) == ("done", 2)


def test_what_comes_late_is_not_held_against_it():
    suspicion = Suspicion(term=2)
    suspicion.rows, late = 10, DeltaReady(0, 3, 0, Token(0, 5), finite=False)
    for term in (1, 2):
        suspicion.on_entry(0.0, Resumed(term, None, None, None, None), ())
        assert suspicion.began == (term == 2)
    suspicion.on_entry(0.0, late, (Fence(0, 3, late.token),))
    suspicion.on_entry(0.0, DIVERGES, ())
    suspicion.on_entry(0.0, late, (Drop(0, 3, "not finite", late.token),))
    with pytest.raises(SpoiledCheckpoint, match="worker 0's clock 3 is not finite"):
        suspicion.on_entry(0.0, DIVERGES, ())


def test_what_comes_some_clocks_later_is_not_held_against_it():
    suspicion = Suspicion(term=1)
    suspicion.rows = 10
    suspicion.on_entry(0.0, Resumed(1, None, None, None, None), ())
    pushes = [DeltaReady(0, clock, 0, Token(1, clock), finite=clock < 3) for clock in range(4)]
    for push in pushes:
        suspicion.on_entry(0.0, push, ())
    suspicion.on_entry(0.0, DIVERGES, ())
    for number in (9, 10):
        other = DeltaReady(1, number - 9, 0, Token(1, number), finite=False)
        suspicion.on_entry(0.0, other, ())
    with pytest.raises(SpoiledCheckpoint, match="worker 1's clock 1 is not finite"):
        suspicion.on_entry(0.0, DIVERGES, ())


@pytest.mark.parametrize("bad", [(0, 11), (1, 10)])
def test_one_delta_that_is_not_finite_after_a_load_is_kept_out_as_it_is_anywhere(tmp_path, bad):
    """Of data that has one, the run could else never go on."""
    runtime = ssp.Virtual(2, faults=[ssp.faults.NaN(*bad)])
    whole = ssp.train(**{**spec(tmp_path / "whole", Spoiling()), "runtime": runtime})
    given = {**spec(tmp_path / "run", Spoiling()), "runtime": runtime}
    with pytest.raises(OSError, match="broken off"):
        ssp.train(**given, observers=[Stop()])
    again = ssp.train(**given)
    assert (again.status, again.resumes, again.not_finite) == ("done", 1, 1)
    assert (bits(again.params), again.history) == (bits(whole.params), whole.history)
