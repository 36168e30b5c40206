"""Workers that join a run which has begun, and come and go with their machines."""

import threading

import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import DeltaReady, WorkerJoined, WorkerLost
from jax_ssp.runtimes.dealing import left_out
from tests.helpers.problems import bits, linear, loss_fn

pytestmark = pytest.mark.ray

MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5))
SOON = ssp.Recovery(restarts=5, backoff=0.01)
SECONDS = 120.0  # that something may take on a busy machine


class Seen(ssp.Observer):
    """What has happened, for a thread that waits for it; ends the run when told to, or at once."""

    def __init__(self, until=lambda seen: False):
        self.until, self.over = until, False
        self.events, self.changed = [], threading.Condition()

    def on_entry(self, now, event, commands):
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()
        self.over = self.over or self.until(self)
        if self.over:
            self.stop("enough is seen")

    def count(self, kind, worker):
        return sum(type(each) is kind and each.worker == worker for each in self.events)

    def more(self, kind, worker, times=1):
        """Wait until it has happened so many times more."""
        with self.changed:
            most = self.count(kind, worker) + times
            assert self.changed.wait_for(lambda: self.count(kind, worker) >= most, SECONDS)


def data():
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    return ssp.data.Epochs((x, x @ np.arange(6, dtype=np.float32)), batch_size=4)


def check(result, spec):
    """It kept the contract, dealt each sample once, and its tape repeats to the last bit."""
    ssp.check_contract(result.tape)
    assert result.data.twice == 0
    assert not left_out(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)


@pytest.mark.parametrize("mode", [{}, {"adopt": ssp.Mix(0.5)}])
def test_a_worker_joins_a_run_that_has_begun(mode):
    seen = Seen(lambda seen: seen.count(DeltaReady, 2) >= 3)
    spec = linear(step=MOMENTUM, data=data(), policy=ssp.SSP(2), num_clocks=10_000, **mode)
    runtime = ssp.Ray(2, max_workers=3, recovery=SOON, delay=ssp.delays.Constant(0.02))
    result = ssp.train(runtime=runtime, observers=[seen], **spec)
    check(result, spec)
    joins = [each for each in seen.events if type(each) is WorkerJoined]
    assert [each.worker for each in joins] == [0, 1, 2]
    assert (joins[2].donor is not None) == bool(mode)
    assert seen.count(DeltaReady, 0) > 0
    assert result.tape.header["num_workers"] == 2
    assert result.tape.header["max_workers"] == 3


@pytest.mark.slow
def test_a_run_does_not_wait_for_who_has_no_room_yet():
    """Each takes all of something that the one machine has once."""
    runtime = ssp.Ray(1, max_workers=3, resources={"node:127.0.0.1": 1})
    result = ssp.train(runtime=runtime, **linear(step=MOMENTUM, num_clocks=5))
    assert result.status == "done"
    assert result.updates == 5


@pytest.fixture
def machines():
    """A cluster that starts with one machine of one core."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # Ray's, to start a program
def test_workers_come_and_go_with_their_machines(machines):
    seen, results = Seen(), []
    spec = linear(step=MOMENTUM, data=data(), policy=ssp.SSP(2), num_clocks=100_000)
    delay = ssp.delays.Constant(0.05)
    runtime = ssp.Ray(1, max_workers=2, address=machines.address, recovery=SOON, delay=delay)

    def trains():
        results.append(ssp.train(runtime=runtime, observers=[seen], **spec))

    training = threading.Thread(target=trains)  # machines are started in the main thread
    training.start()
    try:
        seen.more(DeltaReady, 0, 3)
        machine = machines.add_node(num_cpus=1)
        seen.more(DeltaReady, 1, 3)
        machines.remove_node(machine, allow_graceful=False)
        seen.more(WorkerLost, 1)
        seen.more(DeltaReady, 0, 10)  # which goes on alone
        machines.add_node(num_cpus=1)
        seen.more(DeltaReady, 1, 3)
    finally:
        seen.over = True
        training.join()
    check(results[0], spec)
    joins = [each.worker for each in seen.events if type(each) is WorkerJoined]
    assert joins == [0, 1, 1]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"max_workers=2.*begin"):
        ssp.Ray(4, max_workers=2)
    with pytest.raises(ValueError, match=r"recovery=None"):
        ssp.Ray(2, max_workers=4, recovery=None)
    fixed = ssp.data.Shards(data().arrays, num_workers=2, batch_size=4)
    with pytest.raises(ValueError, match="Epochs"):
        ssp.train(runtime=ssp.Ray(2, max_workers=4), **linear(data=fixed, num_clocks=2))
