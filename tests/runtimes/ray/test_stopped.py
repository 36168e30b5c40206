"""A worker's process that is stopped while nobody waits for a clock of it."""

import os
import signal

import pytest

import jax_ssp as ssp
from jax_ssp.controller import DeltaReady, WorkerJoined, WorkerLost
from jax_ssp.runtimes.cut import NotKept
from jax_ssp.runtimes.ray import calls
from jax_ssp.runtimes.ray.actors import Actors
from jax_ssp.runtimes.ray.states import RemoteKept
from tests.helpers.problems import bits, linear
from tests.runtimes.ray.test_joins import MOMENTUM, Seen


def test_what_does_not_answer_a_save_is_ended_and_what_does_is_waited_for(monkeypatch):
    class Stopped(calls.Actor):
        looks, there, killed_once = 0, False, False

        def calls(self, method, *arguments, **how):
            return [method]

        def answers(self, seconds=0.0):
            return self.there

        def kill(self):
            self.killed_once = True

    def is_there(reference, seconds=0.0):
        actor.looks += 1
        return actor.looks > 3

    monkeypatch.setattr(calls, "is_there", is_there)
    monkeypatch.setattr(calls, "got", lambda reference, what, seconds=None: ({}, {}))
    actor = Stopped(None, "worker 1")
    with pytest.raises(NotKept, match="worker 1"):
        RemoteKept(actor, None).pack("worker/1/")
    assert (actor.looks, actor.killed_once) == (1, True)
    actor = Stopped(None, "worker 1")
    actor.there = True
    assert RemoteKept(actor, None).pack("worker/1/") == ({}, {})
    assert (actor.looks, actor.killed_once) == (4, False)


@pytest.mark.ray
@pytest.mark.slow
def test_a_save_does_not_wait_for_a_worker_that_is_stopped_at_a_barrier(tmp_path, monkeypatch):
    monkeypatch.setattr(calls, "HANG_SECONDS", 2.0)
    made, worker = {}, Actors.worker

    def noting(self, number, late=False):
        made[number] = worker(self, number, late)
        return made[number]

    monkeypatch.setattr(Actors, "worker", noting)

    class Stops(Seen):
        """Stops worker 1 when it has pushed, and waits for the other one."""

        pid = None

        def on_entry(self, now, event, commands):
            super().on_entry(now, event, commands)
            mine = type(event) is DeltaReady and event.worker == 1
            if mine and self.pid is None and self.count(DeltaReady, 1) == 5:
                self.pid = made[1].get("pid", beside=True)
                os.kill(self.pid, signal.SIGSTOP)

    stops = Stops(lambda seen: seen.count(WorkerLost, 1) and seen.count(WorkerJoined, 1) == 2)
    spec = linear(step=MOMENTUM, num_clocks=10_000, policy=ssp.BSP())
    delay = ssp.delays.Straggler(ssp.delays.Constant(0.05), worker=0, factor=10.0)
    recovery = ssp.Recovery(backoff=0.01)
    result = ssp.train(
        runtime=ssp.Ray(2, delay=delay, recovery=recovery),
        checkpoint=ssp.Checkpoints(tmp_path / "run", every=1),
        observers=[stops],
        **spec,
    )
    assert result.status == "early"
    ssp.check_contract(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
