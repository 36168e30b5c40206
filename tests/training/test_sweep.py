"""Sweeps from Python: what is run, what is read, what is refused, and how it is compared."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.files import FolderLock
from jax_ssp.training import members
from jax_ssp.training.jobs import default_jobs
from jax_ssp.training.swept import SweepResult, SweptRun, titled

CLOCKWORK = ssp.Virtual(num_workers=2, compute=False)


@dataclass(frozen=True)
class Failing(ssp.Workload):
    """Cannot be built."""

    def build(self, num_workers, seed):
        raise LookupError("no such data")


class Liar(ssp.ASP):
    """Guarantees what it does not keep."""

    guaranteed_bound = 0

    def admit(self, view, worker):
        return True


def experiments(*bounds: int, clocks: int = 3) -> list[ssp.Experiment]:
    return [
        ssp.Experiment(f"SSP({bound})", policy=ssp.SSP(bound), runtime=CLOCKWORK, num_clocks=clocks)
        for bound in bounds
    ]


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Runs a sweep here, always in the same folder; gives its result, and what ran."""
    ran = []
    run = members.run

    def seen(plan, *others):
        ran.append(plan.name)
        return run(plan, *others)

    monkeypatch.setattr(members, "run", seen)

    def swept(runs) -> tuple[SweepResult, list[str]]:
        ran.clear()
        return ssp.sweep(runs, jobs=1, workdir=tmp_path / "sweep", progress=False), list(ran)

    return swept


def test_each_run_has_a_folder_and_they_are_compared(swept, tmp_path):
    result, _ = swept(experiments(0, 3))
    assert [(each.name, each.status) for each in result.members] == [
        ("SSP(0)", "done"),
        ("SSP(3)", "done"),
    ]
    assert [each.folder.name for each in result.members] == ["00-SSP(0)-seed0", "01-SSP(3)-seed0"]
    assert [run.summary["updates"] for run in result.runs] == [6, 6]
    assert [row["name"] for row in result.rows] == ["SSP(0)", "SSP(3)"]
    assert not result.failed
    assert not result.interrupted
    assert "| SSP(3) |" in result.summary()
    assert json.loads((tmp_path / "sweep" / "comparison.json").read_text())["rows"] == result.rows


def test_what_is_over_is_read_what_is_unfinished_goes_on_and_what_is_new_is_run(swept):
    first, ran = swept(experiments(0, 3))
    assert ran == ["SSP(0)", "SSP(3)"]
    folder = first.members[1].folder
    (folder / "summary.json").unlink()  # as of a run that was killed
    (folder / "tape.jsonl.gz").write_bytes((folder / "tape.jsonl.gz").read_bytes()[:-40])
    rows = len(ssp.read_tape(folder / "tape.jsonl.gz"))
    result, ran = swept(experiments(0, 3, 7))
    assert ran == ["SSP(3)", "SSP(7)"]
    assert [each.status for each in result.members] == ["done"] * 3
    assert result.members[1].folder == folder
    assert [start["rows"] for start in result.members[1].run.config["starts"]] == [0, rows]
    assert swept(experiments(7, 0, 3))[1] == []  # whatever their order


def test_what_cannot_go_on_is_set_aside_and_run_again(swept):
    first, _ = swept(experiments(0))
    folder = first.members[0].folder
    (folder / "summary.json").unlink()
    (folder / "tape.jsonl.gz").write_bytes(b"no tape at all")
    result, ran = swept(experiments(0))
    assert ran == ["SSP(0)"]
    assert [each.status for each in result.members] == ["done"]
    assert (result.folder / "set-aside" / f"{folder.name}-1" / "tape.jsonl.gz").exists()


def test_a_run_that_failed_is_run_again_and_lets_the_others_go_on(swept, tmp_path):
    failing = ssp.Experiment(
        "failing", workload=Failing(), runtime=replace(CLOCKWORK, compute=True), num_clocks=3
    )
    runs = [failing, *experiments(3)]
    for _ in range(2):
        result, _ = swept(runs)
        assert [each.status for each in result.members] == ["failed", "done"]
        assert result.members[0].error == "LookupError: no such data"
        assert result.failed == result.members[:1]
        assert "LookupError: no such data" in result.summary()
        assert "no such data" in (result.members[0].folder / "error.txt").read_text()
    assert [row["status"] for row in result.rows] == ["done", "failed"]


def test_a_run_that_broke_the_contract_is_named_and_spoils_no_comparison(swept):
    uneven = replace(CLOCKWORK, delay=ssp.delays.PerWorker((1.0, 3.0)))
    runs = [replace(each, runtime=uneven) for each in experiments(0, 3)]
    runs.insert(1, replace(runs[0], name="liar", policy=Liar()))
    for ran in (["SSP(0)", "liar", "SSP(3)"], []):
        result, here = swept(runs)
        assert here == ran
        assert [row["name"] for row in result.rows] == ["SSP(0)", "SSP(3)", "liar"]
        (liar,) = result.failed
        assert (liar.name, "clause 1 broken" in liar.error) == ("liar", True)


def test_a_folder_with_another_experiment_is_refused_by_the_difference(swept, tmp_path):
    swept(experiments(0))
    difference = r"00-SSP\(0\)-seed0 holds a run of another experiment: `num_clocks` is 3 there, "
    with pytest.raises(ValueError, match=difference + "and 4 here. Give another `sweep"):
        swept(experiments(0, clocks=4))
    with pytest.raises(ValueError, match=r"`policy.bound` is 0 there, and 1 here"):
        swept([replace(experiments(1)[0], name="SSP(0)")])
    assert len(list((tmp_path / "sweep").glob("*/tape.jsonl.gz"))) == 1


def test_a_folder_of_a_single_run_is_refused(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(ValueError, match="holds a run already"):
        ssp.sweep(experiments(0), jobs=1, workdir=tmp_path, progress=False)


def test_an_unfinished_run_that_is_written_still_is_left_alone(swept):
    result, _ = swept(experiments(0))
    (result.members[0].folder / "summary.json").unlink()
    lock = FolderLock(result.members[0].folder)
    with pytest.raises(ValueError, match="is in use by process"):
        swept(experiments(0))
    lock.release()
    assert swept(experiments(0))[1] == ["SSP(0)"]


def test_an_interrupt_starts_no_more_runs(tmp_path):
    class Interrupting(ssp.Observer):
        def on_start(self, info):
            raise KeyboardInterrupt

    runs = experiments(0, 1)
    runs[0] = replace(runs[0], hooks=(Interrupting(),))
    result = ssp.sweep(runs, jobs=1, workdir=tmp_path / "sweep", progress=False)
    assert [each.status for each in result.members] == ["interrupted", "not run"]
    assert result.interrupted


def test_what_cannot_go_to_another_process_is_refused_by_its_name(tmp_path):
    class Local(ssp.Observer):
        pass

    runs = [replace(experiments(0)[0], hooks=(Local(),)), *experiments(1)]
    with pytest.raises(ValueError, match=r"'SSP\(0\)' cannot go to another process: .* `jobs=1`"):
        ssp.sweep(runs, jobs=2, workdir=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([], r"must have at least one experiment, got \[\]"),
        (3, "a list of `ssp.Experiment`s"),
        ([3], r"`sweep\(experiments=...\)\[0\]` must be an `ssp.Experiment`"),
        ([ssp.Experiment("x", runtime=CLOCKWORK)], r"\[0\]`, 'x': give `num_clocks`"),
    ],
)
def test_what_is_no_sweep_is_refused(wrong, told, tmp_path):
    with pytest.raises((TypeError, ValueError), match=told):
        ssp.sweep(wrong, workdir=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_how_many_at_once_by_default(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("jax_ssp.training.jobs._free_memory", lambda: 2**40)
    virtual = experiments(*range(12))
    assert default_jobs(virtual)[0] == 8
    assert default_jobs(virtual) == (8, "8 at once: 8 cores")
    assert default_jobs(virtual[:3])[0] == 3
    monkeypatch.setattr("jax_ssp.training.jobs._free_memory", lambda: 2**31)
    assert default_jobs(virtual) == (2, "2 at once: 2.0 GiB of memory are free")
    devices = [replace(each, runtime=ssp.Devices()) for each in virtual]
    number, why = default_jobs([*virtual, *devices])
    assert number == 1
    assert "their seconds are the wall's" in why
    monkeypatch.setattr("jax_ssp.training.jobs._computes_on_cpu", lambda: False)
    computing = [replace(each, runtime=ssp.Virtual(2)) for each in virtual]
    assert default_jobs(computing) == (1, "one after the other: they compute on one accelerator")
    assert default_jobs(virtual)[0] == 2  # these compute nothing


@pytest.mark.slow
def test_a_title_says_what_varies(swept):
    runs = [replace(each, seed=seed) for each in experiments(0, 3) for seed in (0, 1)]
    result, _ = swept(runs)
    assert titled(result.runs) == "policy.bound varies · 2 seeds"
    assert titled(result.runs[:1]) is None


def test_a_run_says_how_it_ended():
    killed = SweptRun("SSP(3)", 0, Path("nowhere"), "killed by SIGKILL", "its process was ended")
    assert killed.failed
    assert killed.said == "killed by SIGKILL: its process was ended"
    assert not SweptRun("SSP(3)", 0, Path("nowhere"), "diverged").failed


@dataclass(frozen=True)
class Slope(ssp.Workload):
    """Least squares in float64, if it may be."""

    rate: float = 0.1

    def build(self, num_workers, seed):
        x = np.random.default_rng(seed).normal(size=64)

        def loss_fn(params, batch, key):
            return jnp.mean((batch[0] * params["w"] - batch[1]) ** 2), {}

        step = ssp.make_step(loss_fn, optax.sgd(self.rate))
        data = ssp.data.Shards((x, 3 * x), 4, num_workers, seed)
        return ssp.Task(step, {"w": jnp.zeros(())}, data, lambda params: {"w": params["w"]})


@pytest.mark.slow
def test_runs_at_once_have_the_bits_of_runs_here_and_the_settings_of_this_process(tmp_path):
    runs = [
        ssp.Experiment(f"rate={rate}", workload=Slope(rate), runtime=ssp.Virtual(2), num_clocks=20)
        for rate in (0.01, 0.1)
    ]
    with jax.enable_x64(True):
        here = ssp.sweep(runs, jobs=1, workdir=tmp_path / "here", progress=False)
        at_once = ssp.sweep(runs, jobs=2, workdir=tmp_path / "at once", progress=False)
        for one, other in zip(here.runs, at_once.runs, strict=True):
            np.testing.assert_array_equal(one.params["w"], other.params["w"], strict=True)
            assert one.evaluations == other.evaluations
            assert list(one.tape) == list(other.tape)
        assert here.runs[0].params["w"].dtype == np.float64
    assert here.rows == at_once.rows
