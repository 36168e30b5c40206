"""What a step reads and never changes is neither trained nor sent, and lies once on each device."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp.placement import separate_memory
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.session import make_session
from jax_ssp.runtimes.task import Task

pytestmark = pytest.mark.usefixtures("standard_promotion")

RNG = np.random.default_rng(0)
BATCHES = [
    (RNG.normal(size=(8, 3)).astype(np.float32), RNG.normal(size=(8, 2)).astype(np.float32))
    for _ in range(6)
]


class Tuned(nnx.Module):
    """A small network, low-rank parts beside its kernels, with statistics and dropout."""

    def __init__(self, rate=0.0):
        rngs = nnx.Rngs(0, dropout=1)
        first = nnx.Linear(3, 4, rngs=rngs)
        self.first = nnx.LoRA(3, 2, 4, base_module=first, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.LoRALinear(4, 2, lora_rank=1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.first(x)))))


LOW = ["first.lora_a", "first.lora_b", "head.lora.lora_a", "head.lora.lora_b"]
BASE = {
    *("first.base_module.bias", "first.base_module.kernel", "head.bias", "head.kernel"),
    *("norm.bias", "norm.scale"),
}
STATISTICS = ["norm.mean", "norm.var"]


def loss(model, batch):
    x, y = batch
    return jnp.mean((model(x) - y) ** 2), {}


def trained(step, **more):
    spec = {
        "data": lambda worker: iter(BATCHES * 4),
        "policy": ssp.BSP(),
        "runtime": ssp.Virtual(num_workers=1),
        "num_clocks": 6,
    }
    return ssp.train(step, **{**spec, **more})


def plain(optimizer, wrt, steps=6):
    """A loop without jax_ssp."""
    model = Tuned()
    model.train()
    tx = nnx.Optimizer(model, optimizer, wrt=wrt)
    grads = nnx.grad(lambda model, batch: loss(model, batch)[0], argnums=nnx.DiffState(0, wrt))

    @nnx.jit
    def stepped(model, tx, batch):
        tx.update(model, grads(model, batch))

    for batch in itertools.islice(itertools.cycle(BATCHES), steps):
        stepped(model, tx, batch)
    return flat(model)


def flat(model):
    state = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in state}


FILTERS = {
    "type": (nnx.LoRAParam, {*LOW}),
    "path": (nnx.PathContains("head"), {"head.bias", "head.kernel", *LOW[2:]}),
    "function": (lambda path, _: path[-1] == "bias", {name for name in BASE if "bias" in name}),
    "list": ([nnx.LoRAParam, nnx.PathContains("norm")], {*LOW, "norm.bias", "norm.scale"}),
    "not": (nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam)), BASE),
    "all": (..., {*LOW, *BASE}),
    "parameters": (nnx.Param, {*LOW, *BASE}),
}


@pytest.mark.parametrize("name", FILTERS)
def test_only_what_is_picked_is_trained_and_sent(name):
    wrt, picked = FILTERS[name]
    step = ssp.make_nnx_step(Tuned(), loss, optax.adamw(0.05), wrt=wrt)
    assert {*step.params} == {*picked, *STATISTICS}
    assert {*step.frozen} == {*LOW, *BASE} - picked
    assert not any(step.averaged(step.params)[name] for name in picked)


@pytest.mark.parametrize(
    ("name", "where"),
    [("type", "workers"), ("type", "server"), ("not", "workers"), ("path", "workers")],
)
@pytest.mark.every(5)
def test_one_worker_at_the_barrier_is_the_plain_loop(name, where):
    wrt, picked = FILTERS[name]
    adamw = optax.adamw(0.05, eps=0.1)  # a bias before BatchNorm has no gradient but noise
    step = ssp.make_nnx_step(Tuned(), loss, adamw, wrt=wrt)
    result = trained(step, optimizer_on=where)
    assert {*result.params} == {*picked, *STATISTICS}
    model = flat(step.model(result.params))
    only = nnx.All(nnx.Param, wrt)  # a path picks statistics too, which no optimizer should move
    expected, before = plain(adamw, only), flat(Tuned())
    assert model.keys() == expected.keys()
    for leaf, value in model.items():
        if leaf in step.frozen:
            assert value.tobytes() == before[leaf].tobytes(), leaf
        else:
            np.testing.assert_allclose(value, expected[leaf], rtol=2e-4, atol=1e-5)
            assert value.tobytes() != before[leaf].tobytes(), leaf


def test_a_model_is_put_together_where_its_parameters_are():
    here, there = jax.devices()[:2]
    model = Tuned()
    nnx.update(model, jax.device_put(nnx.state(model), there))
    step = ssp.make_nnx_step(model, loss, optax.sgd(0.1), wrt=nnx.LoRAParam)
    together = step.model(jax.device_put(step.params, here))
    expected = together(BATCHES[0][0])
    assert expected.devices() == {here}


@pytest.mark.slow
def test_it_replays_under_real_devices_with_dropout_and_both_keys():
    def noisy(model, batch, key):
        x, y = batch
        x = x + 0.1 * jax.random.normal(key, x.shape)
        return loss(model, (x, y))

    step = ssp.make_nnx_step(Tuned(0.5), noisy, optax.sgd(0.1), wrt=nnx.LoRAParam)
    run = functools.partial(trained, step, policy=ssp.SSP(bound=2), local_steps=2, overlap=1)
    result = run(runtime=ssp.Devices(num_workers=3))
    again = run(runtime=ssp.Replay(result.tape))
    assert {*result.params} == {*LOW, *STATISTICS}
    for name, value in result.params.items():
        assert np.asarray(value).tobytes() == np.asarray(again.params[name]).tobytes()


@pytest.mark.slow
def test_several_clocks_in_one_program():
    step = ssp.make_nnx_step(Tuned(), loss, optax.sgd(0.1), wrt=nnx.LoRAParam)
    alone, together = (
        trained(step, runtime=ssp.Virtual(num_workers=4, batch=batch)) for batch in (1, 4)
    )
    for name, value in alone.params.items():
        np.testing.assert_allclose(value, together.params[name], rtol=1e-5, atol=1e-6)


def pure_loss(params, batch, key, frozen):
    x, y = batch
    kernel = frozen["kernel"] + params["a"] @ params["b"]
    return jnp.mean((x @ kernel - y) ** 2), {}


LOW_RANK = {"a": jnp.ones((3, 1)), "b": jnp.zeros((1, 2))}


def test_a_pure_loss_has_it_as_an_argument():
    frozen = {"kernel": np.ones((3, 2), np.float32), "steps": 3}
    step = ssp.make_step(pure_loss, optax.adam(0.1), frozen=frozen)
    result = trained(step, params=LOW_RANK)

    def closed(params, batch, key):
        return pure_loss(params, batch, key, frozen)

    expected = trained(ssp.make_step(closed, optax.adam(0.1)), params=LOW_RANK)
    for name, value in expected.params.items():
        np.testing.assert_allclose(result.params[name], value, rtol=1e-6)


SIZE = 256
WEIGHTS = RNG.normal(size=(SIZE, SIZE)).astype(np.float32)


def pure_step(factor):
    """A bias is trained, and WEIGHTS are frozen."""

    def loss_fn(params, batch, key, frozen):
        return jnp.mean((batch @ frozen + params) ** 2), {}

    return ssp.make_step(loss_fn, optax.sgd(0.1), frozen=factor * WEIGHTS)


def nnx_step(factor):
    model = nnx.LoRA(
        SIZE, 1, SIZE, base_module=nnx.Linear(SIZE, SIZE, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1)
    )
    model.base_module.kernel[...] = factor * WEIGHTS
    squares = lambda model, batch: (jnp.mean(model(batch) ** 2), {})  # noqa: E731
    return ssp.make_nnx_step(model, squares, optax.sgd(0.1), wrt=nnx.LoRAParam)


def ones(worker):
    return iter([np.ones((2, SIZE), np.float32)] * 9)


STEPS = {
    "pure": (pure_step, {"params": np.zeros((1, SIZE), np.float32), "data": ones}),
    "nnx": (nnx_step, {"data": ones}),
}


def session(name, workers):
    make, spec = STEPS[name]
    plan = Plan(runtime=ssp.Devices(num_workers=workers), num_clocks=2)
    return make_session(plan, Task(make(1.0), **spec))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.every(2)
def test_it_is_in_no_program_and_once_on_each_device(name):
    shared = session(name, 4).workers
    assert len(shared[0].warmup.lower().as_text()) < 50_000
    mine = jax.tree.leaves(shared[0].seat.frozen)
    assert any(leaf.shape == WEIGHTS.shape for leaf in mine)
    for worker in shared:
        frozen = jax.tree.leaves(worker.seat.frozen)
        assert all(one is other for one, other in zip(mine, frozen, strict=True))
    with separate_memory():
        apart = session(name, 3).workers
        for worker in apart:
            leaves = jax.tree.leaves(worker.seat.frozen)
            assert all(leaf.devices() == {worker.device} for leaf in leaves)
        assert len({worker.device for worker in apart}) == 3


def test_an_evaluation_can_have_it_as_an_argument():
    step = nnx_step(1.0)

    @jax.jit
    def outputs(params, frozen):
        return step.holding(frozen).model(params)(np.ones((2, SIZE), np.float32))

    expected = step.model(step.params)(np.ones((2, SIZE), np.float32))
    np.testing.assert_allclose(outputs(step.params, step.frozen), expected, rtol=1e-4)
    assert len(outputs.lower(step.params, step.frozen).as_text()) < 50_000


def test_the_gradient_of_a_step_with_other_frozen_weights_has_those():
    step = nnx_step(1.0)
    assert step.gradient.frozen is step.frozen
    other = {name: leaf + 1 for name, leaf in step.frozen.items()}
    assert step.holding(other).gradient.frozen is other
    assert step.gradient.holding(other).of_gradients


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.every(2)
def test_a_replay_with_other_frozen_weights_is_told(name):
    make, spec = STEPS[name]
    result = trained(make(1.0), **spec, num_clocks=2)
    assert trained(make(1.0), **spec, num_clocks=2, runtime=ssp.Replay(result.tape))
    with pytest.raises(ssp.TapeMismatch, match="step"):
        trained(make(2.0), **spec, num_clocks=2, runtime=ssp.Replay(result.tape))


def test_an_attribute_of_that_name_alone_means_nothing():
    class Mine:
        frozen = True

        def init(self, params):
            return ()

        def __call__(self, params, state, batch, key):
            return -0.1 * params, state, {"loss": jnp.sum(params)}

    result = trained(Mine(), params=jnp.ones(2), data=lambda worker: iter([np.float32(1)] * 9))
    np.testing.assert_allclose(result.params, np.full(2, 0.9**6, np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    ("wrt", "kind", "message"),
    [
        (3, TypeError, r"`make_nnx_step\(wrt=...\)` must be a filter of flax.nnx, .* got 3\."),
        (lambda path: True, TypeError, r"got <lambda>, which raised TypeError at \('"),
        (nnx.BatchStat, ValueError, r"picks no parameter of the model, .*of LoRAParam, Param"),
        ("lora", ValueError, r"picks no parameter of the model, got 'lora'"),
        (None, ValueError, r"picks no parameter of the model, got None"),
    ],
)
def test_a_filter_that_is_none_or_picks_nothing_is_told(wrt, kind, message):
    with pytest.raises(kind, match=message):
        ssp.make_nnx_step(Tuned(), loss, optax.sgd(0.1), wrt=wrt)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda params, batch, key: 0, {"w": 1.0}), r"a function \(params, batch, key, frozen\)"),
        ((pure_loss, {"w": "kernel"}), r"`make_step\(frozen=...\)\['w'\]` must be an array"),
        ((pure_loss, jax.ShapeDtypeStruct((2,), np.float32)), "must be an array with values"),
    ],
)
def test_frozen_weights_that_are_none_are_told(arguments, message):
    loss, frozen = arguments
    with pytest.raises(TypeError, match=message):
        ssp.make_step(loss, optax.sgd(0.1), frozen=frozen)


class Mine(nnx.Variable):
    """A variable that is no `nnx.Param`."""


def test_a_variable_of_ones_own_can_be_trained_and_integers_can_be_frozen():
    class Scaled(nnx.Module):
        def __init__(self):
            self.scale = Mine(jnp.ones((1, 3)))
            self.codes = nnx.Param(jnp.arange(6, dtype=jnp.int8).reshape(3, 2))

        def __call__(self, x):
            return (x * self.scale[...]) @ self.codes[...].astype(jnp.float32)

    step = ssp.make_nnx_step(Scaled(), loss, optax.sgd(0.01), wrt=Mine)
    assert ([*step.params], [*step.frozen]) == (["scale"], ["codes"])
    assert step.init(step.params).kept == {}
    result = trained(step)
    assert np.any(result.params["scale"] != step.params["scale"])
    assert step.model(result.params).codes[...].dtype == jnp.int8


# The key of a loss.


def by_key(model, batch, key=None):
    return drawn(model, batch, key)


def third(model, batch, noise):
    return drawn(model, batch, noise)


def by_name(model, batch, *, key):
    return drawn(model, batch, key)


def drawn(model, batch, key):
    return loss(model, batch)[0], {"drawn": jax.random.uniform(key)}


def draws(loss, seed=0, model=None, **more):
    step = ssp.make_nnx_step(model or Tuned(), loss, optax.sgd(0.0))
    spec = {"runtime": ssp.Virtual(num_workers=2), "num_clocks": 2, "seed": seed, **more}
    history = trained(step, **spec).history
    return {(row["worker"], row["clock"]): row["metrics"]["drawn"] for row in history}


@pytest.mark.slow
def test_the_key_is_that_of_seed_worker_clock_and_step():
    mine = draws(by_key)
    assert len(set(mine.values())) == 4
    assert mine == draws(third) == draws(by_name) == draws(by_key, policy=ssp.ASP())
    assert not set(mine.values()) & set(draws(by_key, seed=1).values())
    key = jax.random.key(0)
    for number in (1, 1, 0):  # worker 1, clock 1, its first step
        key = jax.random.fold_in(key, number)
    step = ssp.make_nnx_step(Tuned(), by_key, optax.sgd(0.0))
    _, _, metrics = step(step.params, step.init(step.params), BATCHES[0], key)
    assert float(metrics["drawn"]) == mine[1, 1]
    assert mine == draws(by_key, model=Tuned(0.5))  # whatever streams the model has


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda model, batch, train=True: (jnp.float32(0 if train is True else jnp.nan), {}),
        lambda *both: (jnp.float32(0), {}) if len(both) == 2 else None,
        functools.partial(lambda model, batch, key: (jnp.float32(key), {}), key=3),
    ],
    ids=["an option", "any", "bound"],
)
def test_a_loss_that_did_not_ask_for_a_key_gets_none(loss_fn):
    step = ssp.make_nnx_step(Tuned(), loss_fn, optax.sgd(0.1))
    _, _, metrics = step(step.params, step.init(step.params), BATCHES[0], jax.random.key(0))
    assert metrics["loss"] in (0.0, 3.0)


@pytest.mark.parametrize(
    "loss_fn", [lambda model: None, lambda a, b, c, d: None, lambda m, b, *, rng: None]
)
def test_a_loss_of_other_arguments_is_told(loss_fn):
    message = r"`make_nnx_step\(loss=...\)` must be a function \(model, batch\) or \(model, batch,"
    with pytest.raises(TypeError, match=message):
        ssp.make_nnx_step(Tuned(), loss_fn, optax.sgd(0.1))
