"""A model of equinox, split into arrays and the rest, trains as in a loop of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp

eqx = pytest.importorskip("equinox")

pytestmark = pytest.mark.usefixtures("standard_promotion")

RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(size=(8, 4)).astype(np.float32) for _ in range(12)]


def model():
    """With an activation among its leaves, which is no array."""
    return eqx.nn.MLP(3, 1, 8, depth=1, activation=jnp.tanh, key=jax.random.key(0))


def loss_of(model, batch):
    return jnp.mean((jax.vmap(model)(batch[:, :3]) - batch[:, 3:]) ** 2)


def trained(step, params, **more):
    spec = {"data": lambda worker: iter(BATCHES), "policy": ssp.BSP(), "num_clocks": 6, **more}
    return ssp.train(step, params=params, **{"runtime": ssp.Virtual(num_workers=1), **spec})


def plain(chosen, steps=6):
    """A loop as equinox has it; `chosen` says which leaves are trained."""
    mine = model()
    tx = optax.adam(0.05)
    params, static = eqx.partition(mine, chosen(mine))
    state = tx.init(params)
    grads = jax.grad(lambda params, batch: loss_of(eqx.combine(params, static), batch))

    @jax.jit
    def stepped(params, state, batch):
        updates, state = tx.update(grads(params, batch), state, params)
        return eqx.apply_updates(params, updates), state

    for batch in BATCHES[:steps]:
        params, state = stepped(params, state, batch)
    return eqx.combine(params, static)


def assert_same(one, other):
    for leaf, expected in zip(
        *(jax.tree.leaves(eqx.filter(each, eqx.is_array)) for each in (one, other)), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)


def arrays(model):
    return jax.tree.map(eqx.is_inexact_array, model)


def head(model):
    none = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(lambda tree: tree.layers[-1], none, arrays(model).layers[-1])


@pytest.mark.slow
def test_its_arrays_are_the_parameters():
    params, static = eqx.partition(model(), eqx.is_inexact_array)

    def loss_fn(params, batch, key):
        return loss_of(eqx.combine(params, static), batch), {}

    step = ssp.make_step(loss_fn, optax.adam(0.05))
    result = trained(step, params)
    assert_same(eqx.combine(result.params, static), plain(arrays))
    run = {"runtime": ssp.Devices(num_workers=3), "policy": ssp.SSP(bound=1)}
    recorded = trained(step, params, **run)
    again = trained(step, params, **{**run, "runtime": ssp.Replay(recorded.tape)})
    assert eqx.tree_equal(recorded.params, again.params)


def test_a_part_is_frozen():
    params, rest = eqx.partition(model(), head(model()))
    frozen, static = eqx.partition(rest, eqx.is_array)

    def loss_fn(params, batch, key, frozen):
        return loss_of(eqx.combine(params, frozen, static), batch), {}

    step = ssp.make_step(loss_fn, optax.adam(0.05), frozen=frozen)
    result = trained(step, params)
    assert len(jax.tree.leaves(result.params)) == 2
    tuned = eqx.combine(result.params, frozen, static)
    assert_same(tuned, plain(head))
    assert np.array_equal(tuned.layers[0].weight, model().layers[0].weight)
