"""A step is what optax says, a clock is its steps, and a step that does not fit is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp.worker.check import check_step
from jax_ssp.worker.clock import clock_fn

KEY = jax.random.key(0)


def loss_fn(params, batch, key):
    x, y = batch
    error = x @ params["w"] + params["b"] - y
    return jnp.mean(error**2), {"mae": jnp.mean(jnp.abs(error))}


def linear():
    return {"w": jnp.array([0.5, -1.0]), "b": jnp.float32(0.1)}


def batch_of(seed, *leading):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*leading, 4, 2)).astype(np.float32)
    return x, rng.normal(size=(*leading, 4)).astype(np.float32)


def assert_close(tree, expected, rtol=1e-6):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=rtol, atol=1e-7)


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


# A clock.


def noisy_loss(params, batch, key):
    x, y = batch
    error = x @ params["w"] + params["b"] - y
    noise = jax.random.normal(key)
    return jnp.mean(error**2) + noise * params["b"], {"noise": noise, "count": jnp.int32(3)}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("steps", [2, 5])
def test_a_clock_is_its_steps(steps):
    step, params = ssp.make_step(noisy_loss, optax.adam(0.05)), linear()
    state, batch = step.init(params), batch_of(7, steps)
    delta, after, metrics = jax.jit(clock_fn(step, steps))(
        params, state, batch, jax.random.fold_in(KEY, 2), np.int32(9)
    )
    key = jax.random.fold_in(jax.random.fold_in(KEY, 2), 9)
    local, seen = params, []
    for number in range(steps):
        one = jax.tree.map(lambda leaf, number=number: leaf[number], batch)
        update, state, found = step(local, state, one, jax.random.fold_in(key, number))
        local = optax.apply_updates(local, update)
        seen.append(found)
    assert_close(delta, jax.tree.map(jnp.subtract, local, params), rtol=1e-4)
    assert_close(after, state, rtol=1e-5)
    assert metrics.keys() == {"loss", "noise", "count"}
    assert len({float(found["noise"]) for found in seen}) == steps
    for name in metrics:
        average = np.mean([float(found[name]) for found in seen])
        np.testing.assert_allclose(metrics[name], average, rtol=1e-5)


def test_a_clock_of_one_step_takes_the_batch_as_it_is():
    step, params, batch = ssp.make_step(noisy_loss, optax.sgd(0.1)), linear(), batch_of(1)
    given = clock_fn(step, 1)(params, step.init(params), batch, KEY, 0)
    key = jax.random.fold_in(jax.random.fold_in(KEY, 0), 0)
    assert_close(given, step(params, step.init(params), batch, key))


def test_a_delta_keeps_its_low_bits_beside_large_parameters():
    step = ssp.make_step(lambda p, b, k: (jnp.sum(p["w"] * b), {}), optax.sgd(1.0))
    params = {"w": jnp.array([1e6])}
    batch = np.full((4, 1), 0.01, np.float32)  # the spacing of float32 at 1e6 is 0.0625
    delta, _, _ = clock_fn(step, 4)(params, step.init(params), batch, KEY, 0)
    np.testing.assert_allclose(delta["w"], [-0.04], rtol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("first", [1, 3, 4])
def test_a_clock_in_two_parts_is_the_clock(first):
    step, params = ssp.make_step(noisy_loss, optax.adam(0.05)), linear()
    state, batch = step.init(params), batch_of(7, 5)
    whole = clock_fn(step, 5)(params, state, batch, KEY, 9)
    head, tail = (
        jax.tree.map(lambda leaf, part=part: leaf[part] if part != slice(4, 5) else leaf[4], batch)
        for part in (slice(0, first), slice(first, 5))
    )
    if first == 1:
        head = jax.tree.map(lambda leaf: leaf[0], batch)
    carried, state, one = clock_fn(step, first)(params, state, head, KEY, 9)
    delta, state, two = clock_fn(step, 5 - first, first)(params, state, tail, KEY, 9, carried)
    assert_close(delta, whole[0], rtol=1e-5)
    assert_close(state, whole[1], rtol=1e-5)
    for name in whole[2]:
        mean = (first * one[name] + (5 - first) * two[name]) / 5
        np.testing.assert_allclose(whole[2][name], mean, rtol=1e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_a_clock_is_one_scan_however_long():
    step, params = ssp.make_step(loss_fn, optax.adam(0.05)), linear()
    sizes = {}
    for steps in (8, 64):
        jaxpr = jax.make_jaxpr(clock_fn(step, steps))(
            params, step.init(params), batch_of(0, steps), KEY, np.int32(0)
        )
        sizes[steps] = len(jaxpr.eqns)
        scans = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
        assert [scan.params["length"] for scan in scans] == [steps]
    assert sizes[8] == sizes[64]


# Steps that do not fit.


class Handmade:
    """A step written by hand; `change` bends what it gives."""

    def __init__(self, change=lambda *result: result):
        self.change = change

    def init(self, params):
        return jnp.int32(0)

    def __call__(self, params, worker_state, batch, key):
        delta = jax.tree.map(lambda leaf: 0.5 * (batch - leaf), params)
        return self.change(delta, worker_state + 1, {"loss": jnp.float32(0)})


PARAMS = {"w": jnp.zeros(2), "inner": [jnp.zeros(())]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, s, m: ({**d, "w": d["w"][:1]}, s, m), r"`delta\['w'\]` is float32\[1\], but "
         r"`params\['w'\]` is float32\[2\]; they must agree"),
        (lambda d, s, m: ({**d, "w": d["w"].astype(jnp.int32)}, s, m),
         r"`delta\['w'\]` is int32\[2\], but `params\['w'\]` is float32\[2\]; .* any floating"),
        (lambda d, s, m: ({"v": d["w"], "inner": d["inner"]}, s, m),
         r"no leaf for `params\['w'\]`; it has delta\['v'\] instead"),
        (lambda d, s, m: ({"w": d["w"]}, s, m),
         r"no leaf for `params\['inner'\]\[0\]`; it has no other instead"),
        (lambda d, s, m: ({**d, "more": d["w"]}, s, m),
         r"has `delta\['more'\]`, but there is no `params\['more'\]`"),
        (lambda d, s, m: ({**d, "inner": tuple(d["inner"])}, s, m),
         r"the step's `delta` is a PyTreeDef\(.*\), but `params` is a PyTreeDef\(.*\)"),
        (lambda d, s, m: (d, s.astype(jnp.float32), m),
         r"the step's `worker_state` is float32\[\], but `init\(params\)` is int32\[\]; they"),
        (lambda d, s, m: (d, s[None], m), r"the step's `worker_state` is int32\[1\], but `init"),
        (lambda d, s, m: (d, {"n": s}, m), r"the step's `worker_state` has no leaf for `init\(par"),
        (lambda d, s, m: (d, s, {"loss": jnp.zeros(3)}),
         r"metric 'loss' must be a scalar, got shape \(3,\)"),
    ],
)  # fmt: skip
def test_a_delta_or_metric_that_does_not_fit_is_named(change, message):
    check_step(Handmade(), PARAMS, np.float32(1))
    with pytest.raises(ValueError, match=message):
        check_step(Handmade(change), PARAMS, np.float32(1))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Handmade(lambda d, s, m: (d, m)), r"`step` must return \(delta, worker_state, metrics\)"),
        (Handmade(lambda d, s, m: [d, s, m]), r"`step` must return \(delta, worker_state, metr"),
        (
            lambda p, s, b, k: (p, s, {}),
            r"must be callable and have an `init\(params\)`, got <lambda>",
        ),
        (optax.sgd(0.1), r"`ssp\.make_step\(loss_fn, optimizer\)` makes one"),
        (None, r"must be callable and have an `init\(params\)`, got None"),
    ],
    ids=["two", "list", "no init", "not callable", "none"],
)
def test_what_is_no_step_is_told(step, message):
    with pytest.raises(TypeError, match=message):
        check_step(step, PARAMS, np.float32(1))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"norms": {"w": jnp.float32(0)}},
            r"metric 'norms' must be a scalar, got a dict; give each",
        ),
        ([jnp.float32(0)], r"the step's metrics must be a dict, got a list\."),
    ],
)
def test_metrics_that_are_no_flat_dict_are_told(metrics, message):
    with pytest.raises(TypeError, match=message):
        check_step(Handmade(lambda d, s, m: (d, s, metrics)), PARAMS, np.float32(1))


def test_a_leaf_that_is_no_array_is_named():
    message = r"`params\['name'\]` must be an array of numbers, got a str"
    with pytest.raises(TypeError, match=message):
        check_step(Handmade(), {**PARAMS, "name": "net"}, np.float32(1))
    for leaf in ("cat", np.array(["cat"]), np.ma.zeros(2)):
        message = rf"`batch\['x'\]\[1\]` must be an array of numbers, got a {type(leaf).__name__}"
        with pytest.raises(TypeError, match=message):
            check_step(Handmade(), PARAMS, {"x": [np.float32(1), leaf]})


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.uint8])
def test_parameters_that_cannot_be_averaged_are_refused(dtype):
    params = {"w": jnp.zeros(2), "inner": [jnp.zeros(2, dtype)]}
    name = np.dtype(dtype).name
    with pytest.raises(ValueError, match=rf"`params\['inner'\]\[0\]` is {name}; .* floating point"):
        check_step(Handmade(), params, np.float32(1))


def test_checking_computes_nothing():
    class Costly(Handmade):
        def __call__(self, params, worker_state, batch, key):
            assert all(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params))
            return super().__call__(params, worker_state, batch, key)

    check_step(Costly(), PARAMS, np.float32(1))


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
