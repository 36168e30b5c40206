"""Whether a step is one, and its loss and optimizer too: by shapes, before anything computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jax_ssp.checks import shown
from jax_ssp.trees import check_like, check_metrics, check_params, shapes_of


def no_loss(argument: str, signature: str, value: Any) -> TypeError:
    return TypeError(
        f"`{argument}` must be a function {signature} -> (loss, metrics), got {name_of(value)}; "
        "the optimizer comes after it."
    )


def with_key(argument: str, loss: Callable[..., Any]) -> Callable[[Any, Any, jax.Array], Any]:
    """A loss of (model, batch) or (model, batch, key) as one of the latter.

    Its third argument is the key if it is called so, or has no default.

    Raises:
        TypeError: if it can be called neither way.
    """
    try:
        of = inspect.signature(loss)
    except Exception:  # some callables written in C do not say
        return lambda model, batch, key: loss(model, batch)
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    third = [each.name for each in of.parameters.values() if each.kind in places][2:3]
    if third != ["key"] and _takes(of, None, None):
        return lambda model, batch, key: loss(model, batch)
    if _takes(of, None, None, None):
        return loss
    if _takes(of, None, None, key=None):
        return lambda model, batch, key: loss(model, batch, key=key)
    raise TypeError(
        f"`{argument}` must be a function (model, batch) or (model, batch, key) -> (loss, "
        f"metrics), got {shown(loss)}, whose arguments are {of}."
    )


def _takes(of: inspect.Signature, *arguments: Any, **named: Any) -> bool:
    try:
        of.bind(*arguments, **named)
    except TypeError:
        return False
    return True


def check_optimizer(function: str, optimizer: Any) -> None:
    if not (callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update")):
        raise TypeError(
            f"`{function}(optimizer=...)` must be an optax optimizer, such as `optax.sgd(0.1)`, "
            f"got {name_of(optimizer)}; call a function that makes one, and of an "
            "`nnx.Optimizer` give its `tx`."
        )


def name_of(value: Any) -> str:
    """A short name for what may have a long repr."""
    return getattr(value, "__name__", None) or f"a {type(value).__name__}"


def check_step(step: Any, params: Any, batch: Any) -> None:
    """Check by shapes alone that a step fits its parameters; nothing is computed.

    Raises:
        TypeError: if a step has no `init`, or gives something other than three values; if a leaf of
            the parameters or of the batch is no array; if the metrics are no flat dict.
        ValueError: if parameters are not floating point; if a delta differs from them in structure
            or shape (any floating-point type will do, as for `optax.apply_updates`), or the worker
            state from the one before also in dtype (both paths are named); if a metric is no
            scalar.
    """
    if not callable(step) or not callable(getattr(step, "init", None)):
        raise TypeError(
            f"`step` must be callable and have an `init(params)`, got {shown(step)}; "
            "`ssp.make_step(loss_fn, optimizer)` makes one."
        )
    shapes = check_params(params)
    shapes_of("batch", batch)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def first(params: Any, batch: Any, key: jax.Array) -> tuple[Any, Any]:
        state = step.init(params)
        result = step(params, state, batch, key)
        if isinstance(result, tuple) and len(result) == 3:
            check_metrics("the step's", result[2])
        return state, result

    before, result = jax.eval_shape(first, params, batch, key)
    if not (isinstance(result, tuple) and len(result) == 3):
        raise TypeError("`step` must return (delta, worker_state, metrics).")
    delta, state, _ = result
    check_like("the step's", "delta", delta, "params", shapes, any_float=True)
    check_like("the step's", "worker_state", state, "init(params)", before)


def _returned(result: Any) -> str:
    """What a function has returned, as its user would say it."""
    if isinstance(result, tuple):
        return f"a tuple of {[_returned(each) for each in result]}"
    return "an array" if isinstance(result, jax.Array) else f"a {type(result).__name__}"


def loss_and_metrics(result: Any) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(
            "a loss function must return (loss, metrics), metrics a dict of scalars; where there "
            f"are none, `return loss, {{}}`. It returned {_returned(result)}."
        )
    if jnp.shape(result[0]):
        raise TypeError(
            f"a loss function must return a scalar loss, got shape {jnp.shape(result[0])}; "
            "take the mean over the batch."
        )
    # Here, since the gradient of the loss is taken of what it returns beside it too.
    named = {name: value for name, value in result[1].items() if name != "loss"}
    check_metrics("the step's", named)
    return result
