"""What a worker sends is waited for in order, and reported as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.events import Token
from jax_ssp.server.partition import Cut
from jax_ssp.worker.outbox import Dispatched, Outbox, Seat
from jax_ssp.worker.replica import Part

PARAMS = {"w": np.zeros(4, np.float32)}


@pytest.fixture
def outbox():
    def make(pieces=1):
        device = jax.devices()[0]
        return Outbox(Seat(device, device, tuple(jax.devices()[:pieces])))

    return make


def part(steps=1, finite=True, **metrics):
    values = {n: jnp.float32(v) for n, v in metrics.items()}
    return Part(steps, 4 * steps, 32 * steps, jnp.array(finite), values)


def sent(outbox, clock, *parts, norm=None):
    payload = [{"w": jnp.full(4, float(clock))}]
    outbox.send(Dispatched(clock, clock + 10, payload, parts, norm))


def test_the_oldest_comes_first(outbox):
    outbox = outbox()
    assert outbox.is_empty
    sent(outbox, 0, part())
    sent(outbox, 1, part(), norm=jnp.float32(3))
    first, second = outbox.wait(), outbox.wait()
    assert outbox.is_empty
    assert (first.version, second.version) == (10, 11)
    assert (first.norm, second.norm) == (0.0, 3.0)
    assert [float(push.payload[0]["w"][0]) for push in (first, second)] == [0.0, 1.0]


def test_a_clock_is_said_to_be_all_its_parts(outbox):
    outbox = outbox()
    sent(outbox, 0, part(1, loss=2.0, ahead=1.0), part(3, finite=False, loss=6.0))
    push = outbox.wait()
    assert (push.steps, push.samples, push.finite) == (4, 16, False)
    assert push.metrics == {"loss": (1 * 2.0 + 3 * 6.0) / 4, "ahead": 1.0 / 4}
    start = StartClock(2, 0, 4, 10, (), 3, 1 / 3, Token(0, 5))
    event = push.event(start)
    assert (event.worker, event.clock, event.version, event.token) == (2, 0, 10, Token(0, 5))
    assert (event.steps, event.samples, event.finite) == (4, 16, False)


def test_only_the_last_can_be_forgotten(outbox):
    outbox = outbox()
    sent(outbox, 0, part())
    sent(outbox, 1, part())
    outbox.forget(0)  # it is with the server soon
    outbox.forget(1)
    outbox.forget(1)
    assert outbox.wait().version == 10
    assert outbox.is_empty
    outbox.forget(0)


def test_pieces_arrive_on_the_servers_devices(outbox):
    outbox = outbox(pieces=2)
    payload = Cut(PARAMS, 2).split({"w": jnp.arange(4.0)})
    outbox.send(Dispatched(0, 0, payload, [part()], None))
    arrived = outbox.wait().payload
    assert [np.asarray(piece["w"]).tolist() for piece in arrived] == [[0.0, 1.0], [2.0, 3.0]]
    first, second = (piece["w"] for piece in arrived)
    assert first.devices() == {jax.devices()[0]}
    assert isinstance(second, np.ndarray)  # read on another CPU device as it is


def test_where_the_worker_is_the_server_nothing_moves(outbox):
    outbox = outbox()
    delta = {"w": jnp.arange(4.0)}
    outbox.send(Dispatched(0, 0, [delta], [part()], None))
    assert outbox.wait().payload[0] is delta
