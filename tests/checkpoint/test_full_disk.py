"""A disk that fills up while a run goes on: the run goes on, and what was saved stays good."""

import contextlib
import os
import subprocess

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.saver import Saver
from jax_ssp.checkpoint.steps import Steps


@pytest.fixture
def small_disk(tmp_path):
    """The path of a disk of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


class Fills(ssp.Observer):
    """Leaves no room on the disk once there are two checkpoints."""

    def __init__(self, run):
        self.run = run
        self.good = 0

    def on_clock(self, row):
        steps = Steps(self.run / "checkpoints", keep=1).all()
        if len(steps) < 2 or self.good:
            return
        self.good = steps[-1].rows
        others = self.run.parent / "others"
        with contextlib.suppress(OSError), others.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))


@pytest.fixture
def in_turn(monkeypatch):
    """Training waits for each save, so that there are as many as were asked for."""
    save = Saver.save

    def saved(saver, *cut):
        save(saver, *cut)
        saver.flush(60.0)

    monkeypatch.setattr(Saver, "save", saved)


def test_training_goes_on_and_the_step_before_stays_good(
    small_disk, tmp_path, capfd, monkeypatch, in_turn
):
    monkeypatch.chdir(tmp_path)
    run = small_disk / "run"
    fills = Fills(run)

    def train(runtime, **more):
        return ssp.train(
            ssp.make_step(lambda p, batch, key: (jnp.mean((p - batch) ** 2), {}), optax.sgd(1.0)),
            params=jnp.zeros(100_000),
            data=lambda worker: iter([np.ones(100_000, np.float32)] * 12),
            policy=ssp.BSP(),
            num_clocks=12,
            runtime=runtime,
            progress=False,
            **more,
        )

    world = ssp.Virtual(num_workers=2)
    checkpoint = ssp.Checkpoints(run, every=1, keep=3)
    result = train(world, checkpoint=checkpoint, observers=[fills])
    assert result.status == "done"
    assert fills.good
    said = capfd.readouterr().err
    assert said.count("cannot be saved: OSError: [Errno 28] No space left on device") == 1
    assert "Traceback" not in said
    steps = Steps(run / "checkpoints", keep=3)
    assert steps.problems() == []
    assert steps.newest().rows >= fills.good
    (small_disk / "others").unlink()
    assert not list((run / "checkpoints").glob(".*"))
    np.testing.assert_array_equal(result.params, train(world).params)
