"""A step that does not fit is refused by its shapes, before anything computes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ssp.worker.check import check_step
from tests.helpers.steps import PARAMS, Handmade


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
