"""What goes uphill as a transform of the server is refused, and nothing that does not."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jax_ssp as ssp
from jax_ssp.mitigations import ALL_MITIGATIONS
from jax_ssp.server.uphill import check_downhill

PARAMS = {"w": jnp.ones((3, 4)), "b": jnp.ones(3), "h": jnp.ones((5, 2))}
LABELS = {"w": "a", "b": "b", "h": "a"}
MESSAGE = r"^`{}` goes uphill: .* Give it as `ssp\.outer\(optimizer\)`; or, .* `ssp\.as_given"
EXTRAS = {name: jnp.int32(0) for name in ("staleness", "lag", "worker")}
EXTRAS["num_workers"] = jnp.int32(2)
TOLD = ("lbfgs", "momo", "momo_adam", "sophia")  # what needs a loss cannot be on a server


@pytest.fixture(autouse=True)
def _as_optax_needs_it():
    """Some of optax's optimizers do not work under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def tried(tx, params=PARAMS, averaged=None):
    tx = optax.with_extra_args_support(tx)
    averaged = jax.tree.map(lambda _: False, params) if averaged is None else averaged
    base = {"stale_params", "params"} & set(inspect.signature(tx.update).parameters)
    check_downhill("server_tx", tx, params, averaged, EXTRAS, "stale_params" in base)


def refused(tx, params=PARAMS, averaged=None):
    with pytest.raises(ValueError, match=MESSAGE.format("server_tx")):
        tried(tx, params, averaged)


def optimizers():
    """All of optax that are made of a learning rate alone."""
    found = {}
    for module in (optax, optax.contrib):
        for name in dir(module):
            function = getattr(module, name)
            if name.startswith(("_", "scale_by")) or not inspect.isfunction(function):
                continue
            parameters = inspect.signature(function).parameters.values()
            needed = [each.name for each in parameters if each.default is each.empty]
            names = {each.name for each in parameters}
            if "learning_rate" in names and set(needed) <= {"learning_rate"} and name not in TOLD:
                found[name] = function
    assert len(found) > 40
    return found


OPTIMIZERS = optimizers()
QUICK = ("sgd", "adam", "lion")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(OPTIMIZERS)
    ],
)
@pytest.mark.every(3)
def test_every_optimizer_of_optax_needs_outer(name):
    optimizer = OPTIMIZERS[name](learning_rate=0.1)
    refused(optimizer)
    tried(ssp.outer(optimizer))


WRAPPED = {
    "momentum": lambda: optax.sgd(0.7, momentum=0.9, nesterov=True),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "after a mitigation": lambda: optax.chain(ssp.mitigations.scale_by_staleness(), optax.sgd(0.1)),
    "decayed": lambda: optax.adamw(0.1, weight_decay=10.0),
    "masked": lambda: optax.masked(optax.adam(0.1), {"w": True, "b": False, "h": False}),
    "by label": lambda: optax.multi_transform(
        {"a": ssp.outer(optax.sgd(0.1)), "b": optax.sgd(0.001)}, LABELS
    ),
    "frozen": lambda: optax.multi_transform(
        {"a": optax.adam(0.1), "b": optax.set_to_zero()}, LABELS
    ),
    "if finite": lambda: optax.apply_if_finite(optax.sgd(0.1), 3),
    "many steps": lambda: optax.MultiSteps(optax.adam(0.1), 4).gradient_transformation(),
    "every few": lambda: optax.chain(optax.apply_every(7), optax.sgd(0.1)),
    "warm-up": lambda: optax.sgd(optax.warmup_cosine_decay_schedule(0.0, 0.1, 500, 1000)),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
    "noisy": lambda: optax.chain(optax.add_noise(1.0, 0.0, key=0), optax.sgd(0.1)),
    "skipped where not finite": lambda: ssp.mitigations.skip_nonfinite(optax.sgd(0.1)),
    "dropped where stale": lambda: ssp.mitigations.drop_stale(4, optax.adam(0.1)),
    "turned twice": lambda: ssp.outer(optax.scale(0.1)),
    "lookahead": lambda: optax.contrib.schedule_free(optax.sgd(0.1), 0.1),
}

RIGHT = {
    **ALL_MITIGATIONS,
    "identity": optax.identity,
    "scale": lambda: optax.scale(0.01),
    "clip": lambda: optax.clip(1e-3),
    "clip by norm": lambda: optax.clip_by_global_norm(1e-4),
    "clip by block": lambda: optax.clip_by_block_rms(1e-4),
    "trace": lambda: optax.trace(0.9, nesterov=True),
    "ema": lambda: optax.ema(0.99, debias=False),
    "decay": lambda: optax.add_decayed_weights(-10.0),
    "noise": lambda: optax.add_noise(100.0, 0.55, key=0),
    "schedule": lambda: optax.scale_by_schedule(optax.linear_schedule(0.0, 1.0, 1000)),
    "direction of adam": lambda: optax.chain(optax.scale_by_adam(), optax.scale(0.1)),
    "trust": lambda: optax.scale_by_trust_ratio(),
    "zero": optax.set_to_zero,
    "keeps": optax.keep_params_nonnegative,
    "centralized": optax.centralize,
    "masked": lambda: optax.masked(optax.clip(1.0), {"w": True, "b": False, "h": True}),
    "injected": lambda: optax.inject_hyperparams(optax.scale)(step_size=0.5),
    "chain": lambda: optax.chain(
        ssp.mitigations.clip_outliers(), ssp.mitigations.delay_compensation(2.0, adaptive=True)
    ),
    "cannot be tried": lambda: optax.stateless(lambda updates, params: updates["w"][2, 3]),
}


def slowly(cases, quick):
    marks = {name: () if name in quick else pytest.mark.slow for name in cases}
    return [pytest.param(make, id=name, marks=marks[name]) for name, make in cases.items()]


@pytest.mark.parametrize("make", slowly(WRAPPED, ("by label", "many steps", "turned twice")))
@pytest.mark.every(3)
def test_an_optimizer_in_disguise_is_refused(make):
    refused(make())


@pytest.mark.parametrize("make", slowly(RIGHT, ("outer", "clip", "decay", "cannot be tried")))
def test_what_goes_with_the_deltas_is_taken(make):
    tried(make())


def test_what_is_averaged_has_no_say():
    params = {"trained": jnp.ones(2), "statistics": jnp.ones((9, 9))}
    averaged = {"trained": False, "statistics": True}
    tx = optax.masked(optax.sgd(0.1), {"trained": True, "statistics": False})
    refused(tx, params, averaged)
    tried(optax.masked(optax.scale(-1.0), {"trained": False, "statistics": True}), params, averaged)


def test_of_many_leaves_some_of_each_kind_are_tried():
    params = {f"layer {n:02}": {"w": jnp.ones((4, 4)), "b": jnp.ones(4)} for n in range(20)}
    params["scalar"] = jnp.ones(())
    refused(optax.sgd(0.1), params)
    tried(ssp.outer(optax.sgd(0.1)), params)
    for kind in ((), (4,), (4, 4)):
        mask = jax.tree.map(lambda leaf: leaf.shape == kind, params)  # noqa: B023
        refused(optax.masked(optax.sgd(0.1), mask), params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
@pytest.mark.every(3)
def test_every_dtype_is_tried(dtype):
    params = {"w": jnp.ones((2, 2), dtype), "b": jnp.ones((0, 3), dtype)}
    refused(optax.sgd(0.1), params)
    tried(ssp.outer(optax.sgd(0.1)), params)


def spec():
    def loss(params, batch, key):
        return jnp.sum((params["w"] - batch) ** 2), {}

    return {
        "step": ssp.make_step(loss, optax.sgd(0.01)),
        "params": {"w": jnp.zeros(3)},
        "data": lambda worker: iter([np.float32(1)] * 9),
        "policy": ssp.BSP(),
        "runtime": ssp.Virtual(num_workers=2),
        "num_clocks": 3,
    }


@pytest.mark.parametrize("place", ["server_tx", "delta_tx"])
def test_a_run_and_a_server_refuse_it_before_the_first_clock(place):
    with pytest.raises(ValueError, match=MESSAGE.format(place)):
        ssp.train(**spec(), **{place: optax.sgd(0.7)})
    with pytest.raises(ValueError, match=MESSAGE.format(place)):
        ssp.Server({"w": jnp.zeros(2)}, **{place: optax.adam(0.7)})


def test_as_given_passes_it_by():
    result = ssp.train(**spec(), server_tx=ssp.as_given(optax.sgd(1.0)))
    assert result.params["w"][0] < 0
    tx = ssp.configured(ssp.as_given, tx=ssp.chained(ssp.configured(optax.scale, step_size=-1.0)))
    server = ssp.Server({"w": jnp.zeros(1)}, tx.build())
    server.merge([{"w": jnp.ones(1)}])
    assert server.params["w"].tolist() == [-1.0]
    with pytest.raises(TypeError, match=r"^`as_given\(tx\)` must be an optax transform, got 3"):
        ssp.as_given(3)
