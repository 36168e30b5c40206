"""What becomes of a run on a cluster when a process of it dies, stops, or comes late."""

import os
import signal

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import faults
from jax_ssp.controller import Fence, WorkerJoined, WorkerLost
from jax_ssp.runtimes.ray import sharded
from jax_ssp.runtimes.ray.actors import Actors
from jax_ssp.runtimes.ray.calls import LostShare
from tests.helpers.problems import bits, linear, loss_fn

pytestmark = pytest.mark.ray

SOON = ssp.Recovery(restarts=5, backoff=0.01)
MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5))


class Struck(ssp.data.Epochs):
    """Epochs in which the process that makes a batch is sent a signal, once for each number."""

    def __init__(self, folder, when, number=signal.SIGKILL):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(64, 6)).astype(np.float32)
        super().__init__((x, x @ np.arange(6, dtype=np.float32)), batch_size=4)
        self.folder, self.when, self.signal, self.driver = folder, when, number, os.getpid()

    def batch(self, epoch, index):
        number = epoch * self.batches_per_epoch + index
        if number in self.when and os.getpid() != self.driver:
            try:
                (self.folder / str(number)).touch(exist_ok=False)
                (self.folder / "pid").write_text(str(os.getpid()))
                os.kill(os.getpid(), self.signal)
            except FileExistsError:
                pass
        return super().batch(epoch, index)


def events(result, kind):
    return [event for _, event, _ in result.tape if type(event) is kind]


def commands(result, kind):
    return [each for _, _, commands in result.tape for each in commands if type(each) is kind]


def trained(runtime, **changes):
    """A run that keeps the contract, and that its tape repeats here to the last bit."""
    spec = linear(**{"step": MOMENTUM, "num_clocks": 12, "policy": ssp.SSP(2), **changes})
    result = ssp.train(runtime=runtime, **spec)
    assert result.status == ("early" if "observers" in changes else "done")
    ssp.check_contract(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    return result


@pytest.mark.parametrize("shares", [1, 2])
def test_a_worker_whose_process_is_killed_comes_again_and_no_batch_is_lost(tmp_path, shares):
    data = Struck(tmp_path, {7, 20, 33})
    runtime = ssp.Ray(3, server_shards=shares, recovery=SOON)
    result = trained(runtime, data=data, num_clocks=None, num_epochs=4)
    lost = events(result, WorkerLost)
    assert len(lost) == 3
    assert all("process of worker" in each.reason for each in lost)
    assert len(events(result, WorkerJoined)) > 3  # the run may be over before the last comes again
    assert result.samples == 4 * 64


@pytest.mark.parametrize("mode", [{"overlap": 1, "local_steps": 2}, {"adopt": ssp.Mix(0.5)}])
def test_it_goes_on_in_every_exchange_from_a_live_one_where_that_is_due(tmp_path, mode):
    data = Struck(tmp_path, {9, 22})
    result = trained(ssp.Ray(3, recovery=SOON), data=data, num_clocks=14, **mode)
    assert len(events(result, WorkerLost)) == 2
    donors = [event.donor for event in events(result, WorkerJoined)[3:]]
    assert all((donor is not None) == ("adopt" in mode) for donor in donors)


def test_a_worker_that_is_stopped_is_lost_in_time_and_fenced_when_it_wakes(tmp_path):
    class Wakes(ssp.Observer):
        """Has the stopped process go on once it is lost; ends the run once that is over."""

        lost = fenced = False

        def on_entry(self, now, event, commands):
            if type(event) is WorkerLost and not self.lost:
                self.lost = True
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)
            self.fenced |= any(type(each) is Fence for each in commands)
            if type(event) is WorkerJoined and self.lost and self.fenced:
                self.stop("it is back")

    data = Struck(tmp_path, {10}, signal.SIGSTOP)
    recovery = ssp.Recovery(restarts=2, backoff=6.0, deadline=3.0)
    runtime = ssp.Ray(2, recovery=recovery, delay=ssp.delays.Constant(0.2))
    spec = {"num_clocks": 10_000, "observers": [Wakes()], "policy": ssp.ASP()}
    result = trained(runtime, data=data, **spec)
    lost = events(result, WorkerLost)
    assert lost[0].reason.startswith("hang")
    assert commands(result, Fence)
    assert len(events(result, WorkerJoined)) > 2


def test_a_worker_without_restarts_ends_the_run_where_too_few_are_left(tmp_path):
    data = Struck(tmp_path, {8})
    recovery = ssp.Recovery(restarts=0, min_workers=2)
    result = ssp.train(runtime=ssp.Ray(2, recovery=recovery), **linear(data=data, num_clocks=12))
    assert result.status != "done"


def test_injected_faults_are_played():
    wrong = [faults.Crash(1, 3, back_after=0.1), faults.Duplicate(0, 4), faults.NaN(2, 2)]
    result = trained(ssp.Ray(3, recovery=SOON, faults=wrong), policy=ssp.BSP())
    assert len(events(result, WorkerLost)) == 1
    assert [each.finite for each in events(result, ssp.controller.DeltaReady)].count(False) == 1


class Kills(ssp.Observer):
    """Ends the process of a share of the server, once a version is there."""

    def __init__(self, version):
        self.version, self.shards = version, []

    def on_version(self, version):
        if version.version == self.version:
            pid = self.shards[-1].get("pid", beside=True)
            os.kill(pid, signal.SIGKILL)


def test_a_lost_share_ends_the_run_which_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    kills, made = Kills(20), Actors.shard

    def shard(self, number):
        kills.shards.append(made(self, number))
        return kills.shards[-1]

    monkeypatch.setattr(Actors, "shard", shard)
    spec = linear(step=MOMENTUM, num_clocks=30, policy=ssp.SSP(2))
    spec |= {"checkpoint": ssp.Checkpoints(tmp_path / "run", every=4)}
    runtime = ssp.Ray(2, server_shards=2, delay=ssp.delays.Constant(0.05))
    with pytest.raises(LostShare, match="go on from the newest") as caught:
        ssp.train(runtime=runtime, observers=[kills], **spec)
    assert caught.value.exit_code == 75
    monkeypatch.undo()
    result = ssp.train(runtime=runtime, resume="must", **spec)
    assert result.status == "done"
    assert result.updates == 60
    ssp.check_contract(result.tape)
    again = ssp.train(
        runtime=ssp.Replay(result.tape), **linear(step=MOMENTUM, num_clocks=30, policy=ssp.SSP(2))
    )
    assert bits(again.params) == bits(result.params)


class Looks(ssp.Observer):
    """Who is lost."""

    def __init__(self):
        self.lost = []

    def on_entry(self, now, event, commands):
        if type(event) is WorkerLost:
            self.lost.append(event)


def test_what_a_share_fails_with_is_raised_before_a_worker_is_lost_for_it(monkeypatch):
    def look(count):
        if count == 3:
            raise OSError("the rate is gone")
        return count

    def update(updates, state, params=None):
        like = jax.ShapeDtypeStruct((), np.int32)
        return updates, 1 + jax.pure_callback(look, like, state)

    monkeypatch.setattr(sharded, "LOOK_SECONDS", 3600.0)  # so that who reads it gets it first
    fails = ssp.as_given(optax.GradientTransformation(lambda params: np.int32(0), update))
    looks, spec = Looks(), linear(num_clocks=20, policy=ssp.ASP(), server_tx=fails)
    with pytest.raises(Exception, match="the rate is gone") as caught:
        ssp.train(runtime=ssp.Ray(2, recovery=SOON), observers=[looks], **spec)
    assert any("in the process of share 0" in each for each in caught.value.__notes__)
    assert looks.lost == []


def test_a_run_goes_on_here_that_was_saved_there(tmp_path):
    """A checkpoint of one runtime is one of the other's, with as many shares."""

    class Stops(ssp.Observer):
        def on_version(self, version):
            if version.version == 12:
                raise KeyboardInterrupt

    spec = linear(step=MOMENTUM, num_clocks=20, policy=ssp.BSP())
    whole = ssp.train(runtime=ssp.Virtual(2), **spec)
    kept = {"checkpoint": ssp.Checkpoints(tmp_path / "run", every=2)}
    runtime = ssp.Ray(2)
    with pytest.raises(KeyboardInterrupt):
        ssp.train(runtime=runtime, observers=[Stops()], **spec, **kept)
    result = ssp.train(runtime=runtime, resume="must", **spec, **kept)
    assert bits(result.params) == bits(whole.params)
