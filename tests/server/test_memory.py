"""The server touches nobody else's arrays, and uses memory again that nobody holds."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ssp.mitigations import outer
from jax_ssp.server.server import Server
from tests.helpers.servers import assert_close, on_device, tree


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.every(2)
def test_the_memory_of_a_version_that_nobody_holds_is_used_again(devices):
    server = Server(large(0), weight="sum", device=jax.devices()[:devices])
    expected = large(0)["w"].astype(np.float64)
    held, places, shown = deque(), [], []
    for number in range(1, 40):
        if len(held) == 3:
            held.popleft().release()
        held.append(server.versions.newest.hold())
        shown.append(held[-1].to(jax.devices()[3:])[0]["w"])
        shown = shown[-2:]  # as NumPy arrays on that memory: they keep it from being used again
        assert server.merge([large(number)]) == number
        expected += large(number)["w"]
        places.append(server.versions.newest.pieces[0]["w"].unsafe_buffer_pointer())
    np.testing.assert_allclose(server.params["w"], expected, rtol=1e-4, atol=1e-4)
    assert len(set(places[10:])) <= 3 + 2


def test_what_a_worker_reads_is_not_overwritten():
    server = Server(large(0), device=jax.devices()[0])
    seen = []
    for number in range(12):
        (views,) = server.versions.newest.to(jax.devices()[1:])  # itself held by nobody
        seen.append((views, jax.tree.map(np.array, views)))
        server.merge([large(number)])
    for views, copies in seen:
        jax.tree.map(np.testing.assert_array_equal, views, copies)


def aligned(values) -> np.ndarray:
    """NumPy memory that JAX's CPU backend can use as it is, without a copy."""
    values = np.asarray(values, np.float32)
    raw = np.empty(values.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array = raw[start : start + values.nbytes].view(np.float32)
    array[:] = values
    return array


def large(seed: int) -> dict[str, np.ndarray]:
    """Of a size whose memory is used again."""
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(256, 512)).astype(np.float32), "b": np.ones(2, np.float32)}


@pytest.mark.parametrize("tree", [tree, large])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.every(5)
def test_a_snapshot_somebody_keeps_stays_as_it_is(tree, devices):
    server = Server(tree(0), outer(optax.sgd(0.1, momentum=0.9)), device=jax.devices()[:devices])
    kept, copies = [], []
    for number in range(20):
        if number % 3 == 0:
            kept.append(server.snapshot())
            copies.append(jax.tree.map(np.array, kept[-1]))
        server.merge([tree(number)])
    assert len({leaf["w"].unsafe_buffer_pointer() for leaf in kept}) == 7
    for snapshot, copy in zip(kept, copies, strict=True):
        jax.tree.map(np.testing.assert_array_equal, snapshot, copy)


def test_the_users_arrays_are_neither_taken_over_nor_written_to():
    params, delta = on_device(tree(0)), on_device(tree(1))
    server = Server(params, optax.trace(0.5), weight="sum")
    for _ in range(5):
        server.merge([delta, delta])
    jax.tree.map(np.testing.assert_array_equal, params, tree(0))
    jax.tree.map(np.testing.assert_array_equal, delta, tree(1))


def test_the_user_may_delete_what_the_server_was_given():
    params, delta = on_device(tree(0)), on_device(tree(1))
    server = Server(params, weight="sum")
    jax.tree.map(lambda leaf: leaf.delete(), params)
    server.merge([delta])
    jax.block_until_ready(server.params)
    jax.tree.map(lambda leaf: leaf.delete(), delta)
    assert_close(server.params, {name: tree(0)[name] + tree(1)[name] for name in tree(0)})


def test_the_user_may_overwrite_what_the_server_was_given():
    size = 200_000  # large enough for the merge to be under way still when the delta is overwritten
    params, delta = aligned(np.zeros(size)), aligned(np.ones(size))
    server = Server({"w": params}, weight="sum")
    params[:] = 7.0
    for _ in range(3):
        delta[:] = 1.0
        server.merge([{"w": delta}])
        delta[:] = 9.0
    assert np.unique(np.asarray(server.params["w"])).tolist() == [3.0]


def test_a_transform_that_keeps_the_parameters_is_not_given_the_snapshot_to_destroy():
    keep = optax.GradientTransformation(lambda params: params, lambda u, state, params: (u, params))
    server = Server({"w": jnp.zeros(300)}, keep, weight="sum")
    kept = [server.snapshot()]
    for _ in range(3):
        server.merge([{"w": jnp.ones(300)}])
        kept.append(server.snapshot())
    assert [float(snapshot["w"][0]) for snapshot in kept] == [0.0, 1.0, 2.0, 3.0]
