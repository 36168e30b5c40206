"""RandK sends numbers at places drawn with a key, and a run draws them the same again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.compression import RandK, TopK, compress, nbytes, residual_of
from jax_ssp.server.local_store import LocalStore
from tests.helpers.formats import assert_same


@pytest.mark.slow
def test_places_are_drawn_anew_with_each_key_and_all_have_their_turn():
    tree = {"w": jnp.arange(1.0, 21.0)}
    draw = jax.jit(lambda key: RandK(k=5).decode(RandK(k=5).encode(tree, key), like=tree)["w"])
    sent = np.array([np.asarray(draw(jax.random.key(seed))) != 0 for seed in range(400)])
    assert (sent.sum(1) == 5).all()
    share = sent.mean(0)  # each a mean of 400 draws of chance 1/4: 5 standard errors
    assert (np.abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 400)).all()
    assert_same(draw(jax.random.key(3)), draw(jax.random.key(3)))
    two = {"a": tree["w"], "b": tree["w"]}  # leaves have keys of their own
    decoded = RandK(k=5).decode(RandK(k=5).encode(two, jax.random.key(0)), like=two)
    assert not np.array_equal(decoded["a"], decoded["b"])


def test_rand_k_takes_half_the_bytes_of_top_k():
    shapes = jax.eval_shape(RandK(0.5).encode, {"w": jnp.ones(1000)}, jax.random.key(0))
    assert nbytes(shapes) == 4 * 500 + 4
    assert nbytes(jax.eval_shape(TopK(0.5).encode, {"w": jnp.ones(1000)})) == 8 * 500


def test_a_random_format_without_a_key_is_refused():
    tree = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"`compress\(key=...\)`: RandK.* draws random numbers"):
        compress(RandK(), tree, residual_of(tree))


@pytest.mark.parametrize("runtime", ["virtual", "batch", "devices"])
@pytest.mark.slow
def test_a_run_draws_by_worker_and_clock_and_replays_bit_for_bit(runtime):
    def loss(params, batch, key):
        return jnp.sum((params["w"] - batch) ** 2), {}

    step = ssp.make_step(loss, optax.sgd(0.05))
    spec = {
        "params": {"w": jnp.zeros(10)},
        "data": lambda worker: iter([np.float32(worker + 1)] * 99),
        "policy": ssp.SSP(2),
        "num_clocks": 40,
        "delta_wire": RandK(k=5),
    }
    runtimes = {
        "virtual": ssp.Virtual(3, ssp.delays.Exponential()),
        "batch": ssp.Virtual(3, ssp.delays.Exponential(), batch=3),
        "devices": ssp.Devices(num_workers=3),
    }
    result = ssp.train(step, **spec, runtime=runtimes[runtime])
    again = ssp.train(step, **spec, runtime=ssp.Replay(result.tape))
    assert_same(again.params, result.params)
    np.testing.assert_allclose(result.params["w"], 2.0, atol=0.3)
    other = ssp.train(step, **spec, runtime=runtimes["virtual"], seed=1)
    assert not np.array_equal(other.params["w"], result.params["w"])
    # Workers and clocks differ in what they draw: after one clock, in what each has left.
    one = ssp.train(step, **{**spec, "num_clocks": 1}, runtime=ssp.Virtual(3))
    left = [np.asarray(jax.tree.leaves(each)[0]) == 0 for each in one.residuals]
    assert len({mask.tobytes() for mask in left}) > 1


def test_a_random_snapshot_wire_is_refused():
    with pytest.raises(ValueError, match=r"draws random numbers.*use it as `delta_wire`"):
        LocalStore(ssp.Server({"w": jnp.ones(3)}), snapshot_wire=RandK())
