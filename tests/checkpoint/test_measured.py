"""Which checkpoints are the best: those whose own version was evaluated best."""

import math

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.measured import Measured
from jax_ssp.checkpoint.saver import Saver
from jax_ssp.checkpoint.sealed import sealed
from jax_ssp.checkpoint.step import MANIFEST, read_manifest
from jax_ssp.checkpoint.steps import Steps
from tests.helpers.problems import linear


def evaluated(measured, **metrics):
    measured.told(
        [{"version": int(v.lstrip("v")), "metrics": {"score": m}} for v, m in metrics.items()]
    )


@pytest.fixture
def kept(tmp_path):
    """Saves a step of this version, and gives the versions of those that are kept."""
    measured = Measured("score")
    steps = Steps(tmp_path / "checkpoints", keep=1, keep_best=2)
    steps.metrics = measured.by_rows

    def save(version):
        about = (measured.value(version), version)
        steps.save(10 * version, {}, {"w": np.zeros(1)}, *about)
        return [step.version for step in steps.all()]

    return measured, save


def test_an_evaluation_is_of_one_checkpoint_alone(kept):
    measured, save = kept
    evaluated(measured, v0=0.1, v4=0.9)
    save(4)
    save(5)
    evaluated(measured, v6=0.7)
    save(6)
    save(7)
    assert save(8) == [4, 6, 8]  # not 5 and 7, which nobody has evaluated


def test_one_that_comes_after_the_checkpoint_of_its_version_is_of_that(kept):
    measured, save = kept
    evaluated(measured, v0=0.1)
    save(4)
    evaluated(measured, v4=0.9)  # which came while the checkpoint was written
    assert save(8) == [4, 8]
    evaluated(measured, v8=0.2)
    assert save(12) == [4, 8, 12]
    evaluated(measured, v12=0.3)
    assert save(16) == [4, 12, 16]


def test_what_is_not_finite_is_never_the_best(kept):
    measured, save = kept
    evaluated(measured, v1=math.nan)
    save(1)
    evaluated(measured, v2=-5.0)
    save(2)
    assert save(3) == [2, 3]


def test_a_checkpoint_that_says_no_version_is_ranked_by_what_it_says(kept, tmp_path):
    measured, save = kept
    evaluated(measured, v1=0.5)
    save(1)
    path = tmp_path / "checkpoints" / "10"
    older = {k: v for k, v in read_manifest(path).items() if k not in ("version", "sha256")}
    (path / MANIFEST).write_bytes(sealed(older))
    again = Steps(path.parent, keep=1, keep_best=2)
    again.metrics = measured.by_rows
    assert (again.newest().version, again.newest().metric) == (None, 0.5)
    again.save(20, {}, {}, None, 2)
    again.save(30, {}, {}, None, 3)
    assert [step.rows for step in again.all()] == [10, 20, 30]  # 20 is the first after version 1


def test_a_run_keeps_the_checkpoints_of_the_versions_that_were_best(tmp_path, monkeypatch):
    saved, save = [], Saver.save

    def saved_at_once(self, *about):
        save(self, *about)
        assert self.flush(60)
        saved.append(about[-1])

    class Stop(ssp.Observer):
        def on_clock(self, row):
            if row["updates"] == 12:
                raise OSError("broken off")

    monkeypatch.setattr(Saver, "save", saved_at_once)
    given = linear(
        policy=ssp.BSP(),
        runtime=ssp.Virtual(2),
        num_clocks=8,
        evaluate=lambda params: {"score": float(params["w"].sum()) * 1000 % 1},
        eval_every=2,
        checkpoint=ssp.Checkpoints(tmp_path / "run", every=1, keep=1, best="score", keep_best=2),
    )
    with pytest.raises(OSError, match="broken off"):
        ssp.train(**given, observers=[Stop()])
    result = ssp.train(**given)
    rows = [row for row in result.evaluations if row["version"]]  # nobody saves version 0
    rows.sort(key=lambda row: row["metrics"]["score"])
    best = {min(each for each in saved if each >= row["version"]) for row in rows[-2:]}
    steps = Steps(tmp_path / "run" / "checkpoints", keep=1).all()
    assert {step.version for step in steps} == {*best, result.version}
