"""Optimizers that want the loss, its gradient or its function get what a plain loop gives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp.worker.check import check_step

pytestmark = pytest.mark.usefixtures("standard_promotion")

PLATEAU = optax.contrib.reduce_on_plateau
LBFGS = optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=8))
BACKTRACKING = optax.scale_by_backtracking_linesearch(max_backtracking_steps=8)
OPTIMIZERS = {
    "plateau": optax.chain(optax.sgd(0.3), PLATEAU(factor=0.5, patience=2, accumulation_size=1)),
    "inner plateau": optax.chain(
        optax.clip(1.0), optax.chain(optax.adam(0.1), PLATEAU(factor=0.5, patience=1))
    ),
    "polyak": optax.polyak_sgd(max_learning_rate=0.3),
    "momo": optax.contrib.momo(0.1),
    "momo adam": optax.contrib.momo_adam(0.1),
    "lbfgs": LBFGS,
    "backtracking": optax.chain(optax.sgd(1.0), BACKTRACKING),
    "several steps": optax.MultiSteps(optax.polyak_sgd(max_learning_rate=0.3), 2),
    "injected": optax.inject_hyperparams(optax.polyak_sgd)(max_learning_rate=0.3),
    "labelled": optax.multi_transform({"all": optax.polyak_sgd(max_learning_rate=0.2)}, "all"),
    "sam": optax.contrib.sam(
        optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.1)), opaque_mode=True
    ),
    "sophia": optax.contrib.sophia(0.05, update_interval=1),
}
DATA = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
STEPS = 6
TAKES = {"sam": ["grad_fn"], "sophia": ["obj_fn"]}  # not what all others take


def loss_of(params, batch):
    return jnp.mean(jnp.abs(batch @ params["w"] - 1.0)) + 0.1 * jnp.sum(params["w"] ** 2)


def loss_fn(params, batch, key):
    return loss_of(params, batch), {}


def start():
    return {"w": jnp.array([0.5, -0.25, 1.0])}


def plain(name, params, loss):
    """The loop of optax's own examples."""
    optimizer = OPTIMIZERS[name]
    state = optimizer.init(params)
    if isinstance(optimizer, optax.GradientTransformation):
        optimizer = optax.with_extra_args_support(optimizer)
    takes = TAKES.get(name, ("value", "grad", "value_fn"))
    for _ in range(STEPS):
        value, grad = jax.value_and_grad(loss)(params)
        known = {
            "value": value,
            "grad": grad,
            "value_fn": loss,
            "obj_fn": loss,
            "grad_fn": lambda params, _: jax.grad(loss)(params),
        }
        told = {each: known[each] for each in takes}
        updates, state = optimizer.update(grad, state, params, **told)
        params = optax.apply_updates(params, updates)
    return params


def train(step, **spec):
    return ssp.train(
        step,
        data=lambda worker: iter([DATA] * 50),
        policy=ssp.BSP(),
        runtime=ssp.Virtual(num_workers=2),
        **spec,
    )


@pytest.mark.parametrize(
    ("name", "local_steps"),
    [*((name, 3) for name in OPTIMIZERS), ("plateau", 1), ("lbfgs", 1)],
)
@pytest.mark.every(19)
def test_an_optimizer_is_told_what_a_plain_loop_tells_it(name, local_steps):
    result = train(
        ssp.make_step(loss_fn, OPTIMIZERS[name]),
        params=start(),
        num_clocks=STEPS // local_steps,
        local_steps=local_steps,
    )
    expected = plain(name, start(), lambda params: loss_of(params, DATA))
    np.testing.assert_allclose(result.params["w"], expected["w"], rtol=1e-4, atol=1e-5)
    assert np.any(result.params["w"] != start()["w"])


class Model(nnx.Module):
    def __init__(self):
        self.hidden = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(4, 1, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def model_loss(model, batch):
    return jnp.mean((model(batch) - 1) ** 2), {}


@pytest.mark.parametrize(
    "name",
    [
        *("plateau", "several steps", "sam"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("lbfgs", "sophia")),
    ],
)
@pytest.mark.slow
def test_so_is_that_of_a_model(name):
    graph, state = nnx.split(Model())
    result = train(ssp.make_nnx_step(Model(), model_loss, OPTIMIZERS[name]), num_clocks=STEPS)
    expected = plain(
        name,
        nnx.to_pure_dict(state),
        lambda params: model_loss(nnx.merge(graph, _state(params)), DATA)[0],
    )
    for layer, leaves in expected.items():
        for name, leaf in leaves.items():
            value = result.params[f"{layer}.{name}"]
            np.testing.assert_allclose(value, leaf, rtol=1e-3, atol=1e-4)


def _state(params):
    flat = {
        (layer, name): leaf for layer, leaves in params.items() for name, leaf in leaves.items()
    }
    return nnx.from_flat_state([(path, nnx.Param(leaf)) for path, leaf in flat.items()])


@pytest.mark.parametrize(
    "runtime", [pytest.param(ssp.Virtual(3, batch=3), marks=pytest.mark.slow), ssp.Virtual(3)]
)
@pytest.mark.slow
def test_a_line_search_goes_on_where_others_have_moved_the_parameters(runtime):
    rng = np.random.default_rng(1)
    result = ssp.train(
        ssp.make_step(loss_fn, LBFGS),
        params=start(),
        data=lambda worker: iter(rng.normal(size=(60, 8, 3)).astype(np.float32) * 0.1 + 1),
        policy=ssp.SSP(2),
        runtime=runtime,
        num_clocks=8,
        local_steps=2,
        overlap=1,
    )
    assert result.status == "done"
    losses = [row["metrics"]["loss"] for row in result.history]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


def test_an_optimizer_is_told_no_more_than_it_takes():
    def update(updates, state, params=None, *, value):
        return jax.tree.map(lambda leaf: -0.1 * value * leaf, updates), state

    only_value = optax.GradientTransformationExtraArgs(lambda params: (), update)
    params, batch = start(), jnp.asarray(DATA)
    step = ssp.make_step(loss_fn, only_value)
    delta, _, metrics = step(params, (), batch, jax.random.key(0))
    grads = jax.grad(loss_of)(params, batch)
    np.testing.assert_allclose(delta["w"], -0.1 * metrics["loss"] * grads["w"], rtol=1e-6)


def test_an_optimizer_that_needs_what_a_step_has_not_is_refused():
    def update(updates, state, params=None, *, hessian, **_):
        return updates, state

    needs = optax.chain(
        optax.identity(), optax.GradientTransformationExtraArgs(lambda params: (), update)
    )
    message = r"the optimizer needs more than a step has, which is \['value', 'grad', .* 'hessian'"
    with pytest.raises(TypeError, match=message):
        check_step(ssp.make_step(loss_fn, needs), start(), DATA)


@pytest.mark.parametrize("where", ["server_tx", "delta_tx"])
@pytest.mark.parametrize(
    "tx",
    [OPTIMIZERS["polyak"], OPTIMIZERS["plateau"], LBFGS, OPTIMIZERS["sophia"]],
)
def test_the_server_has_no_loss(tx, where):
    message = rf"`{where}` needs .*, but the server has no loss.*`ssp\.make_step\(loss_fn, opt"
    with pytest.raises(TypeError, match=message):
        ssp.Server(start(), **{where: tx})
    with pytest.raises(TypeError, match=message):
        ssp.Server(start(), **{where: ssp.outer(tx)})
