"""Saves that go wrong: the run goes on, and the step before stays good."""

import json
import signal
import subprocess
import sys

import pytest

import jax_ssp as ssp
from jax_ssp import delays, faults
from jax_ssp.checkpoint.steps import Steps
from tests.helpers.problems import bits, linear
from tests.helpers.terms import without_terms


def saved(folder, *wrong, **changes):
    runtime = ssp.Virtual(3, delays.Exponential(), faults=wrong)
    checkpoint = ssp.Checkpoints(folder, every=1, keep=99)
    spec = linear(policy=ssp.SSP(1), num_clocks=8, runtime=runtime, checkpoint=checkpoint)
    return ssp.train(**{**spec, **changes})


@pytest.mark.parametrize("kind", [faults.SaveFails, faults.DiskFull])
@pytest.mark.every(2)
def test_a_save_that_fails_ends_nothing_and_leaves_nothing_half_written(tmp_path, kind, capfd):
    plain = saved(tmp_path / "plain")
    result = saved(tmp_path / "run", kind(times=1))
    assert bits(result.params) == bits(plain.params)
    assert (result.status, result.updates) == ("done", 24)
    steps = Steps(tmp_path / "run" / "checkpoints", keep=99)
    assert steps.problems() == []
    assert steps.newest() is not None  # what was given last was tried again
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["checkpoints"]["failed"] == 1
    said = capfd.readouterr().err
    assert "cannot be saved: OSError: [Errno" in said
    assert "an injected fault" in said


@pytest.mark.parametrize("where", [{"phase": "save"}, {"phase": "save", "nth": 3}])
@pytest.mark.every(2)
def test_a_save_that_raises_anything_ends_nothing(tmp_path, where):
    result = saved(tmp_path / "run", faults.Raise(**where, error=KeyError("no")))
    assert result.status == "done"


def test_saves_of_a_run_that_is_not_saved_are_refused():
    with pytest.raises(ValueError, match=r"name a save \(DiskFull\(\)\), but the run is not saved"):
        ssp.train(**linear(num_clocks=3, runtime=ssp.Virtual(2, faults=[faults.DiskFull()])))


PROGRAM = """
import sys
from jax_ssp import faults
from tests.runtimes.faults.test_saves import saved
result = saved(sys.argv[1], *faults.from_words(sys.argv[2:]), num_clocks=200)
print(result.status)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_in_its_saves_comes_to_the_same(tmp_path):
    """Killed in three lives, each in a save; in the fourth it comes to its end."""
    kills = [faults.Kill(phase="save", nth=nth, life=life) for life, nth in enumerate((2, 1, 1))]
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run"), *faults.in_words(kills)]
    codes = []
    while codes[-1:] != [0] and len(codes) < 9:
        codes.append(subprocess.run(command, check=False).returncode)
    assert codes == [-signal.SIGKILL] * 3 + [0]
    whole = saved(tmp_path / "whole", num_clocks=200)
    kept = ssp.read_run(tmp_path / "run")
    assert without_terms(kept.tape) == without_terms(whole.tape)
    assert kept.tape.params == whole.tape.params
