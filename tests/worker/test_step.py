"""A step is what optax says; one written by hand is as good."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp.worker.check import check_step
from jax_ssp.worker.clock import clock_fn
from tests.helpers.steps import KEY, PARAMS, Handmade, assert_close, batch_of, linear, loss_fn

# make_step.


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adamw(0.01), optax.sgd(0.1, 0.9)])
def test_a_delta_is_what_optax_calls_updates(optimizer):
    step, params = ssp.make_step(loss_fn, optimizer), linear()
    state = other = optimizer.init(params)
    for seed in range(3):
        batch = batch_of(seed)
        delta, state, metrics = step(params, state, batch, KEY)
        (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, KEY)
        expected, other = optimizer.update(grads, other, params)
        assert_close(delta, expected)
        assert_close(state, other)
        assert metrics.keys() == {"loss", "mae"}
        assert (metrics["loss"], metrics["mae"]) == (loss, aux["mae"])
        params = optax.apply_updates(params, delta)


def test_the_loss_gets_the_key():
    step = ssp.make_step(lambda p, b, key: (p * jax.random.uniform(key), {}), optax.sgd(1.0))
    delta, _, _ = step(jnp.float32(1), step.init(jnp.float32(1)), None, jax.random.key(5))
    assert delta == -jax.random.uniform(jax.random.key(5))


@pytest.mark.parametrize("result", [jnp.float32(1), (jnp.float32(1),), (jnp.float32(1), 2.0)])
def test_a_loss_that_gives_no_metrics_is_told(result):
    message = r"a loss function must return \(loss, metrics\), metrics a dict of scalars"
    message += r"; where there are none, `return loss, \{\}`\. It returned an? (array|tuple of)"
    step = ssp.make_step(lambda params, batch, key: result, optax.sgd(0.1))
    with pytest.raises(TypeError, match=message):
        step(linear(), step.init(linear()), None, KEY)
    with pytest.raises(TypeError, match=message):
        check_step(step, linear(), batch_of(0))
    nnx_step = ssp.make_nnx_step(
        nnx.Linear(2, 1, rngs=nnx.Rngs(0)), lambda model, batch: result, optax.sgd(0.1)
    )
    with pytest.raises(TypeError, match=message):
        nnx_step(nnx_step.params, nnx_step.init(nnx_step.params), None, KEY)


def test_the_loss_is_the_loss_whatever_the_metrics_are_called():
    def loss(params, batch, key):
        return jnp.float32(jnp.nan), {"loss": jnp.float32(0), "other": jnp.float32(1)}

    step = ssp.make_step(loss, optax.sgd(0.1))
    _, _, metrics = step(linear(), step.init(linear()), None, KEY)
    assert np.isnan(metrics["loss"])
    assert metrics["other"] == 1
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    step = ssp.make_nnx_step(model, lambda model, batch: loss(None, batch, None), optax.sgd(0.1))
    assert np.isnan(step(step.params, step.init(step.params), None, KEY)[2]["loss"])


LINEAR = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
SGD = optax.sgd(0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ssp.make_step(loss_fn, optax.sgd), r"`make_step\(optimizer=...\)` must be an "
         r"optax optimizer, such as `optax\.sgd\(0\.1\)`, got sgd; call a function that makes one"),
        (lambda: ssp.make_step(loss_fn, nnx.Optimizer(LINEAR, SGD, wrt=nnx.Param)),
         r"got a Optimizer; .* of an `nnx\.Optimizer` give its `tx`"),
        (lambda: ssp.make_step(SGD, loss_fn), r"`make_step\(loss_fn=...\)` must be a function "
         r"\(params, batch, key\) -> \(loss, metrics\), got a Grad.*; the optimizer comes after"),
        (lambda: ssp.make_nnx_step(LINEAR, loss_fn, optax.sgd), r"nnx_step\(optimizer=...\)`"),
        (lambda: ssp.make_nnx_step(LINEAR, SGD, loss_fn), r"`make_nnx_step\(loss=...\)` must be a "
         r"function \(model, batch\) ->"),
        (lambda: ssp.make_nnx_step(loss_fn, LINEAR, SGD), r"`make_nnx_step\(model=...\)` must be a "
         r"flax\.nnx module, got loss_fn; the order is \(model, loss, optimizer\)"),
        (lambda: ssp.make_nnx_step(nnx.Linear, loss_fn, SGD), r"flax\.nnx module, got Linear"),
    ],
    ids=["uncalled", "nnx", "swapped", "nnx uncalled", "nnx swapped", "model", "class"],
)  # fmt: skip
def test_what_a_step_cannot_be_made_of_is_told(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_loss_must_be_a_scalar():
    step = ssp.make_step(lambda params, batch, key: (params["w"] ** 2, {}), optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"must return a scalar loss, got shape \(2,\); take the m"):
        check_step(step, linear(), batch_of(0))


# make_nnx_step.


class Net(nnx.Module):
    """Everything that a model can hold: parameters, running statistics, random streams."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.75, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.dense(x)))


def net_loss(model, batch):
    x, y = batch
    out = model(x)
    return jnp.mean((jnp.sum(out, axis=1) - y) ** 2), {"sum": jnp.sum(out)}


def net_step(optimizer=None):
    return ssp.make_nnx_step(Net(nnx.Rngs(0)), net_loss, optimizer or optax.sgd(0.1))


def test_the_parameters_are_the_arrays_by_dotted_path():
    params = net_step().params
    assert sorted(params) == [
        *("dense.bias", "dense.kernel"),
        *("norm.bias", "norm.mean", "norm.scale", "norm.var"),
    ]
    assert params["dense.kernel"].shape == (2, 3)
    # The optimizer sees what is trained and nothing else.
    mu = net_step(optax.adam(0.1)).init(params).optimizer[0].mu
    trained = ["dense.bias", "dense.kernel", "norm.bias", "norm.scale"]
    assert jax.tree.map(jnp.shape, mu) == {
        "dense": {"bias": (3,), "kernel": (2, 3)},
        "norm": {"bias": (3,), "scale": (3,)},
    }
    averaged = net_step().averaged(params)
    assert sorted(name for name in averaged if not averaged[name]) == trained


@pytest.mark.slow
def test_dropout_is_another_for_each_worker_clock_and_step_and_the_same_again():
    step = net_step()
    state, batch = step.init(step.params), batch_of(0)
    drawn = jax.jit(lambda key: step(step.params, state, batch, key)[2]["sum"])

    def key_of_worker(worker):
        return jax.random.fold_in(KEY, worker)

    def key_of(worker, clock, number):
        return jax.random.fold_in(jax.random.fold_in(key_of_worker(worker), clock), number)

    places = [(worker, clock, n) for worker in range(3) for clock in range(3) for n in range(3)]
    sums = [float(drawn(key_of(*place))) for place in places]
    assert len(set(sums)) == len(places)
    assert sums == [float(drawn(key_of(*place))) for place in places]
    clock = jax.jit(clock_fn(step, 1))
    for place, expected in zip(places, sums, strict=True):
        if place[2] == 0:
            key = key_of_worker(place[0])
            metrics = clock(step.params, state, batch, key, np.int32(place[1]))[2]
            assert metrics["sum"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_users_model_is_left_as_it_was():
    model = Net(nnx.Rngs(0))
    model.eval()
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Not(nnx.RngKey)))
    step = ssp.make_nnx_step(model, net_loss, optax.sgd(0.1))
    result = ssp.train(
        step,
        data=lambda worker: iter([batch_of(n) for n in range(4)]),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=4,
    )
    after = jax.tree.map(np.asarray, nnx.state(model, nnx.Not(nnx.RngKey)))
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert model.norm.use_running_average
    assert model.dropout.deterministic
    assert not np.array_equal(result.params["dense.kernel"], model.dense.kernel[...])


def test_batchnorm_statistics_travel_as_a_delta_and_merging_averages_them():
    step = net_step()
    params, state = step.params, step.init(step.params)
    deltas, means, variances = [], [], []
    for worker in range(2):
        batch = batch_of(worker)
        delta, _, _ = step(params, state, batch, jax.random.key(worker))
        hidden = batch[0] @ np.asarray(params["dense.kernel"]) + np.asarray(params["dense.bias"])
        # momentum 0.75, from mean 0 and variance 1
        means.append(0.25 * hidden.mean(axis=0))
        variances.append(0.75 + 0.25 * hidden.var(axis=0))
        np.testing.assert_allclose(delta["norm.mean"], means[-1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(delta["norm.var"], variances[-1] - 1, rtol=1e-5, atol=1e-6)
        deltas.append(delta)
    # Whatever a delta of what is trained counts.
    server = ssp.Server(params, optax.scale(7.0), weight="sum", averaged=step.averaged(params))
    server.merge(deltas)
    merged = server.params
    np.testing.assert_allclose(merged["norm.mean"], np.mean(means, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(merged["norm.var"], np.mean(variances, axis=0), rtol=1e-5)
    assert not np.allclose(means[0], means[1])


def test_the_model_of_some_parameters_evaluates():
    step = net_step()
    params = {
        **step.params,
        "norm.mean": jnp.array([1.0, 2.0, 3.0]),
        "norm.var": jnp.array([4.0, 1.0, 0.25]),
    }
    x, _ = batch_of(3)
    model = step.model(params)
    hidden = x @ np.asarray(params["dense.kernel"])
    expected = (hidden - [1.0, 2.0, 3.0]) / np.sqrt(np.array([4.0, 1.0, 0.25]) + 1e-5)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(x), model(x))
    np.testing.assert_array_equal(model.norm.mean[...], params["norm.mean"])
    jitted = jax.jit(lambda params: step.model(params)(x))(params)
    np.testing.assert_allclose(jitted, expected, rtol=1e-5, atol=1e-6)


# Steps written by hand.


@pytest.mark.parametrize("local_steps", [1, 2])
def test_a_step_written_by_hand_trains(local_steps):
    result = ssp.train(
        Handmade(),
        params=PARAMS,
        data=lambda worker: iter([np.float32(4)] * 40),
        policy=ssp.BSP(),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=20,
        local_steps=local_steps,
    )
    np.testing.assert_allclose(result.params["w"], 4 * np.ones(2), rtol=1e-5)
    np.testing.assert_allclose(result.params["inner"][0], 4, rtol=1e-5)
    assert (result.status, result.updates) == ("done", 40)


def test_a_step_that_keeps_the_parameters_or_the_delta_in_its_state_harms_nobody():
    class Keeper:
        def init(self, params):
            return (params, params)

        def __call__(self, params, worker_state, batch, key):
            delta = jax.tree.map(jnp.ones_like, params)
            return delta, (params, delta), {"read": params["w"][0]}

    result = ssp.train(
        Keeper(),
        params={"w": jnp.zeros(300)},
        data=lambda worker: iter([np.float32(0)] * 9),
        policy=ssp.SSP(2, "lazy"),
        runtime=ssp.Virtual(num_workers=2),
        num_clocks=5,
        weight="sum",
    )
    assert result.params["w"].tolist() == [10.0] * 300
