"""What of a run's processes is there after it, and stands in nobody's way."""

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.controller import WorkerJoined, WorkerLost
from jax_ssp.runtimes.ray import pool
from jax_ssp.runtimes.ray.actors import Actors
from jax_ssp.runtimes.ray.calls import got
from jax_ssp.runtimes.ray.worker import There
from tests.helpers.problems import linear
from tests.runtimes.ray.test_joins import Seen

pytestmark = pytest.mark.ray


def of_one_machine(share, **more):
    """Two workers of which each has a share of something that the machine has once."""
    return ssp.Ray(2, resources={"node:127.0.0.1": share}, **more)


def test_what_an_error_leaves_is_free_for_the_next_run_and_so_is_what_rests():
    def fails(params):
        raise ValueError("no such measure")

    spec = linear(num_clocks=2)
    with pytest.raises(ValueError, match="no such measure") as kept:  # as a notebook keeps it
        ssp.train(runtime=of_one_machine(0.4), evaluate=fails, target="loss <= 0.1", **spec)
    for runtime in (of_one_machine(0.4), of_one_machine(0.5)):
        assert ssp.train(runtime=runtime, **spec).status == "done"
    assert kept.value.__traceback__ is not None


def test_a_process_that_has_ended_while_it_rested_is_not_taken():
    spec = linear(num_clocks=2)
    ssp.train(runtime=ssp.Ray(2), **spec)
    for actor in itertools.chain(*pool._resting.values()):
        os.kill(actor.get("pid", beside=True), signal.SIGKILL)
    assert ssp.train(runtime=ssp.Ray(2), **spec).status == "done"


class Fails:
    """Batches of a worker that fail once, and then twice when they are made."""

    def __init__(self, folder, most=3):
        self.folder, self.most = folder, most

    def __call__(self, worker):
        times = len([*self.folder.iterdir()])
        if worker == 1 and 0 < times < self.most:
            self.fail(times)
        rng = np.random.default_rng(worker)
        for number in itertools.count():
            if worker == 1 and number == 4 and not times:
                self.fail(times)
            x = rng.normal(size=(4, 6)).astype(np.float32)
            yield x, x @ np.arange(6, dtype=np.float32)

    def fail(self, times):
        (self.folder / str(times)).touch()
        raise OSError("the disk is away")


def made_by(monkeypatch):
    """The actors of workers that are made from now on."""
    made, new = [], Actors._new

    def noting(self, kind, takes):
        actor = new(self, kind, takes)
        if kind is There:
            made.append((actor, actor.call("pid", beside=True)))
        return actor

    monkeypatch.setattr(Actors, "_new", noting)
    return made


def is_gone(pid):
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True


def test_who_fails_to_come_again_leaves_its_room_to_the_next(tmp_path):
    """Without that the second attempt would wait for the first one's for ever."""
    seen = Seen(lambda seen: seen.count(WorkerJoined, 1) == 2)
    recovery = ssp.Recovery(restarts=5, backoff=0.01)
    runtime = of_one_machine(0.4, recovery=recovery, delay=ssp.delays.Constant(0.02))
    spec = linear(num_clocks=10_000, policy=ssp.ASP(), data=Fails(tmp_path))
    result = ssp.train(runtime=runtime, observers=[seen], **spec)
    assert result.status == "early"
    assert len([*tmp_path.iterdir()]) == 3


def test_who_is_lost_for_good_keeps_no_process(tmp_path, monkeypatch):
    made = made_by(monkeypatch)

    def gone(seen):
        return seen.count(WorkerLost, 1) and is_gone(got(made[1][1], "worker 1"))

    recovery = ssp.Recovery(restarts=0, backoff=0.01)
    runtime = ssp.Ray(2, recovery=recovery, delay=ssp.delays.Constant(0.02))
    spec = linear(num_clocks=10_000, policy=ssp.ASP(), data=Fails(tmp_path))
    result = ssp.train(runtime=runtime, observers=[Seen(gone)], **spec)
    assert result.status == "early"
