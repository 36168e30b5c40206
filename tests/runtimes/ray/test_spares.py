"""What a spare has ready, and when spares are made."""

import contextlib
import os
import signal

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import DeltaReady, StartClock, Token, WorkerJoined, WorkerLost
from jax_ssp.runtimes.ray.actors import Actors
from jax_ssp.runtimes.ray.calls import is_there
from jax_ssp.runtimes.ray.fetched import Pieces
from jax_ssp.runtimes.ray.sent import sent, settings
from jax_ssp.runtimes.ray.worker import There
from tests.helpers.problems import bits, linear, loss_fn

pytestmark = pytest.mark.ray

MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5))


class Seen(Exception):
    """What actors would get of a run."""


class Shows(ssp.Ray):
    """Raises it, and starts nothing."""

    def elsewhere(self, run):
        raise Seen(sent(run))


@contextlib.contextmanager
def counted():
    """The programs that are traced or compiled in here, by the names of the events."""
    found = []

    def heard(name, seconds, **more):
        if name.startswith("/jax/core/compile"):
            found.append(name)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


def test_a_spare_that_takes_a_number_traces_and_compiles_nothing():
    import ray

    with pytest.raises(Seen) as caught:
        ssp.train(runtime=Shows(3, spares=1), **linear(step=MOMENTUM, num_clocks=4))
    (run,) = caught.value.args
    ssp.train(runtime=ssp.Ray(1), **linear(num_clocks=1))  # so that there is a cluster
    reference, pieces = [ray.put(run)], Pieces([ray.put(jax.tree.map(np.asarray, run.task.params))])
    start = StartClock(2, 0, 1, 0, (), num_workers=3, weight=1 / 3, token=Token(0, 5))

    def first_clock(there):
        there.become(settings(), reference, 2)
        there.come_again(3)
        there.succeed(0, pieces)
        there.begin(start, pieces, None, False)
        return there.finish(None)

    spare, cold = There(), There()
    spare.prepare(settings(), reference)
    with counted() as during:
        (push, _), payload = first_clock(spare)
    assert not during
    with counted() as heard:
        (expected, _), same = first_clock(cold)
    assert heard
    assert push == expected
    assert bits(payload) == bits(same)


class KillsOnce(ssp.Observer):
    """Kills worker 0 once a spare is ready; ends the run when the worker has finished a clock."""

    def __init__(self, workers=2):
        self.workers = workers
        self.made, self.ready, self.lost, self.seconds = [], None, None, None
        self.there = []  # how many actors there are: when it is lost, back, has finished a clock

    def on_entry(self, now, event, commands):
        if self.ready is None and len(self.made) > self.workers:
            spare = self.made[self.workers]
            self.ready = spare.call("pid")  # which it answers after what it has to prepare
        elif self.lost is None and self.ready is not None and is_there(self.ready):
            self.lost = now
            os.kill(self.made[0].get("pid", beside=True), signal.SIGKILL)
        elif self.lost is not None and getattr(event, "worker", None) == 0:
            self.follow(now, event)

    def follow(self, now, event):
        if type(event) is WorkerLost:
            self.lost = now
        if type(event) in (WorkerLost, WorkerJoined) or (self.there and type(event) is DeltaReady):
            self.there.append(len(self.made))
        if self.there and type(event) is DeltaReady:
            self.seconds = now - self.lost
            self.stop("it is back")


class KillsSpare(KillsOnce):
    """Kills the spare once it is ready; ends the run when there is another."""

    def on_entry(self, now, event, commands):
        if self.ready is None and len(self.made) > 2:
            self.ready = self.made[2].call("pid")
        elif self.lost is None and self.ready is not None and is_there(self.ready):
            self.lost = now
            os.kill(self.made[2].get("pid", beside=True), signal.SIGKILL)
        elif len(self.made) > 3:
            self.stop("there is another")


def counting(kills, monkeypatch):
    """Has an observer see the actors of workers that are made."""
    new = Actors._new

    def made(self, kind, takes):
        actor = new(self, kind, takes)
        if kind is There:
            kills.made.append(actor)
        return actor

    monkeypatch.setattr(Actors, "_new", made)
    return kills


def spec_of(kills):
    recovery = ssp.Recovery(backoff=0.01)
    runtime = ssp.Ray(2, recovery=recovery, spares=1, delay=ssp.delays.Constant(0.1))
    more = {"num_clocks": 2_000, "policy": ssp.SSP(2)}
    return {"runtime": runtime, "observers": [kills], **linear(step=MOMENTUM, **more)}


def test_a_spare_takes_the_place_of_a_lost_one_at_once_and_then_another_is_made(monkeypatch):
    kills = counting(KillsOnce(), monkeypatch)
    ssp.train(**spec_of(kills))
    assert kills.there[:3] == [3, 3, 4]
    assert kills.seconds < 10.0  # a bound for busy machines; the benchmark measures it


def test_a_spare_whose_process_ends_is_replaced_before_it_is_needed(monkeypatch):
    kills = counting(KillsSpare(), monkeypatch)
    result = ssp.train(**spec_of(kills))
    assert result.status == "early"
    assert not result.losses
