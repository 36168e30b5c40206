"""What is compiled before the first clock is what is run, and running it once changes nothing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.data.feed import Feed
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.memory import Memory
from jax_ssp.server.server import Server
from jax_ssp.worker.exchange import Exchange
from jax_ssp.worker.needs import Needs
from jax_ssp.worker.outbox import Seat
from jax_ssp.worker.program import Program
from jax_ssp.worker.warmup import first_replica
from jax_ssp.worker.worker import Worker
from tests.helpers.problems import PARAMS, batches, bits, loss_fn

STEP = ssp.make_step(loss_fn, optax.sgd(0.05, momentum=0.9))


def worker(exchange, delta_wire=None):
    store = LocalStore(Server(PARAMS), delta_wire)
    device = jax.devices()[0]
    program = Program(STEP, store.layout)
    memory = Memory(store.layout.delta_like(store.masters), device)
    replica = first_replica(program, store.wire, store.snapshot(0), jax.random.key(3), device)
    feed, seat = Feed(batches(0), device, 0), Seat(device, device, store.devices)
    return Worker(0, seat, program, feed, exchange, store.wire, memory, replica)


def numbers_in(replica):
    return bits(jax.tree.map(np.array, replica._replace(key=jax.random.key_data(replica.key))))


INT8 = ssp.compression.Int8(block=4)


@pytest.mark.parametrize(
    ("exchange", "wire"),
    [
        (Exchange(local_steps=(1, 3), overlap=1), INT8),
        (Exchange(local_steps=(2,), overlap=2), None),
        (Exchange(local_steps=(2,), adopt=ssp.Mix(0.5)), INT8),
        (Exchange(local_steps=(2,), needs=Needs(norm=True, undo=True)), None),
    ],
    ids=["overlap", "all ahead", "mix", "norm"],
)
@pytest.mark.every(5)
def test_it_changes_nothing(exchange, wire):
    mine = worker(exchange, wire)
    before = numbers_in(mine.replica)
    mine.warmup.compile()
    mine.warmup.rehearse()
    assert numbers_in(mine.replica) == before
    assert mine.feed.taken == 0


def test_what_it_says_of_a_clock():
    found = worker(Exchange(local_steps=(2,))).warmup.rehearse()
    assert found["parameter_bytes"] == 4 * 6
    assert found["argument_bytes"] >= 4 * 6 * 2 + 2 * 4 * (6 + 1) * 4
    assert found["clock_seconds"] > 0


def test_a_first_replica_reads_the_snapshot_and_has_lost_nothing():
    replica = worker(Exchange(), INT8).replica
    np.testing.assert_array_equal(replica.held["w"], PARAMS["w"])
    (lost,) = replica.residual
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(lost))
    assert (replica.cursor, replica.version, replica.base, replica.own) == (0, -1, None, {})
    assert bits(replica.state) == bits(jax.tree.map(jnp.zeros_like, replica.state))


def test_a_worker_goes_on_where_its_replica_says():
    one = worker(Exchange())
    again = Feed(batches(0), one.device, 0)
    parts = one.index, one.seat, one.program, again, one.exchange, one.wire, one.memory
    Worker(*parts, one.replica._replace(cursor=5))
    assert again.taken == 5
    expected = list(itertools.islice(batches(0), 6))[-1]
    np.testing.assert_array_equal(again.peek()[0], expected[0])
    with pytest.raises(AssertionError, match="a feed does not go back"):
        Worker(*parts, one.replica._replace(cursor=4))
