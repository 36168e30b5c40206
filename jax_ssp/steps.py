"""Training steps, and the clock made of them.

A step is a pure function `(params, worker_state, batch, key) -> (delta, worker_state, metrics)`
with an `init(params) -> worker_state`. One can jit, scan and test it alone; `make_step` makes one
from a loss and an optimizer, `make_nnx_step` from a flax.nnx model, and any object of that shape
will do. A clock of H local steps is one `lax.scan` over such a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jax_ssp.shapes import check_like, check_params, shapes_of

Params: TypeAlias = Any
WorkerState: TypeAlias = Any
Batch: TypeAlias = Any
Metrics: TypeAlias = Mapping[str, jax.Array]

# What a row of a run's history holds beside a clock's metrics.
CLOCK_COLUMNS = ("worker", "clock", "start", "finish", "base_version", "merge_version")
CLOCK_COLUMNS += ("staleness", "lag", "updates", "weight", "kind", "nonfinite")


class Step(Protocol):
    """What a worker repeats: one local step.

    It is traced when it is first used, so it must not change after that. Parameters that are not
    trained but only averaged (running statistics) can be named by a method
    `averaged(params) -> tree of booleans`.
    """

    def init(self, params: Params) -> WorkerState:
        """The worker's own state (optimizer state, say) before its first step."""
        ...

    def __call__(
        self, params: Params, worker_state: WorkerState, batch: Batch, key: jax.Array
    ) -> tuple[Params, WorkerState, Metrics]:
        """One step; the delta is what is to be added to `params`, with their structure."""
        ...


@dataclass(frozen=True, eq=False)
class LossStep:
    """A step by the gradient of a loss. Made by `make_step`."""

    loss_fn: Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]]
    optimizer: optax.GradientTransformation

    def init(self, params: Params) -> WorkerState:
        return self.optimizer.init(params)

    def __call__(
        self, params: Params, worker_state: WorkerState, batch: Batch, key: jax.Array
    ) -> tuple[Params, WorkerState, Metrics]:
        def loss_fn(params: Params) -> tuple[jax.Array, Metrics]:
            return _loss_and_metrics(self.loss_fn(params, batch, key))

        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        delta, worker_state = self.optimizer.update(grads, worker_state, params)
        return delta, worker_state, {**metrics, "loss": loss}


def make_step(
    loss_fn: Callable[[Params, Batch, jax.Array], tuple[jax.Array, Metrics]],
    optimizer: optax.GradientTransformation,
) -> LossStep:
    """Make a training step from a loss and an optimizer.

    The optimizer's state belongs to the worker and never leaves it.

    Args:
        loss_fn: pure, `(params, batch, key) -> (loss, metrics)`; `loss` a scalar, `metrics` a
            dict of scalars, `key` a PRNG key of this worker, clock and step.
        optimizer: any optax optimizer; its updates are the delta.

    Returns:
        A step whose metrics are `{**metrics, "loss": loss}`: a metric named "loss" gives way.

    Raises:
        TypeError: if `loss_fn` is no function, or `optimizer` no optax optimizer.

    Example:
        >>> def loss_fn(params, batch, key):
        ...     return jnp.sum((params["w"] - batch) ** 2), {}
        >>> step = make_step(loss_fn, optax.sgd(0.25))
        >>> params = {"w": jnp.zeros(2)}
        >>> delta, _, metrics = step(params, step.init(params), jnp.ones(2), jax.random.key(0))
        >>> delta["w"].tolist(), float(metrics["loss"])
        ([0.5, 0.5], 2.0)
    """
    if not callable(loss_fn):
        raise _no_loss("make_step(loss_fn=...)", "(params, batch, key)", loss_fn)
    _check_optimizer("make_step", optimizer)
    return LossStep(loss_fn, optimizer)


class NnxStep:
    """A step of a flax.nnx model. Made by `make_nnx_step`.

    Attributes:
        params: the model's arrays, as a flat dict from dotted path to array: what is trained, and
            what is not but changes (BatchNorm statistics).
    """

    def __init__(
        self,
        model: nnx.Module,
        loss: Callable[[Any, Batch], tuple[jax.Array, Metrics]],
        optimizer: optax.GradientTransformation,
    ) -> None:
        model = nnx.clone(model)
        model.train()
        self._graph, trained, self._rngs, rest = nnx.split(model, nnx.Param, nnx.RngState, ...)
        self._loss = loss
        self._optimizer = optimizer
        self._shapes = (jax.eval_shape(lambda: trained), jax.eval_shape(lambda: rest))
        self._trained = tuple(_flat(trained))
        self.params: dict[str, jax.Array] = {**_flat(trained), **_flat(rest)}

    def init(self, params: dict[str, jax.Array]) -> WorkerState:
        return self._optimizer.init({name: params[name] for name in self._trained})

    def averaged(self, params: Mapping[str, jax.Array]) -> dict[str, bool]:
        """Which parameters are not trained, but averaged over the workers."""
        return {name: name not in self._trained for name in params}

    def model(self, params: Mapping[str, jax.Array]) -> Any:
        """The model with these parameters, in evaluation mode (no dropout, running statistics)."""
        model = self._merge(params, self._rngs)
        model.eval()
        return model

    def __call__(
        self,
        params: dict[str, jax.Array],
        worker_state: WorkerState,
        batch: Batch,
        key: jax.Array,
    ) -> tuple[dict[str, jax.Array], WorkerState, Metrics]:
        trained = {name: params[name] for name in self._trained}
        rest = {name: value for name, value in params.items() if name not in trained}

        def loss_fn(trained: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            model = self._merge({**trained, **rest}, _seeded(self._rngs, key))
            loss, metrics = _loss_and_metrics(self._loss(model, batch))
            new_rest = nnx.split(model, nnx.Param, nnx.RngState, ...)[3]
            return loss, (metrics, _flat(new_rest))

        (loss, (metrics, new_rest)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        delta, worker_state = self._optimizer.update(grads, worker_state, trained)
        moved = {name: new_rest[name] - value for name, value in rest.items()}
        return {**delta, **moved}, worker_state, {**metrics, "loss": loss}

    def _merge(self, params: Mapping[str, jax.Array], rngs: Any) -> Any:
        trained, rest = (_filled(shapes, params) for shapes in self._shapes)
        return nnx.merge(self._graph, trained, rngs, rest)


def make_nnx_step(
    model: nnx.Module,
    loss: Callable[[Any, Batch], tuple[jax.Array, Metrics]],
    optimizer: optax.GradientTransformation,
) -> NnxStep:
    """Make a training step from a flax.nnx model.

    `nnx.Param` variables are trained by the optimizer. Every other variable but the random state
    (BatchNorm's mean and variance, say) travels as a delta too, so that merging averages it,
    whatever weight and transform the server has for what is trained. The model's random streams
    (dropout) are seeded anew for each worker, clock and step. The model itself is copied, not
    changed.

    Args:
        model: the model; train it from `step.params`, use it as `step.model(result.params)`.
        loss: `(model, batch) -> (loss, metrics)`, called with the model in training mode; a metric
            named "loss" gives way to the loss.
        optimizer: any optax optimizer; its state belongs to the worker.

    Returns:
        A step with `params`, the model's initial arrays by dotted path, and `model(params)`.

    Raises:
        TypeError: if `model` is no flax.nnx module, `loss` no function, or `optimizer` no optax
            optimizer.

    Example:
        >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        >>> def loss(model, batch):
        ...     return jnp.mean(model(batch) ** 2), {}
        >>> step = make_nnx_step(model, loss, optax.sgd(0.1))
        >>> sorted(step.params)
        ['bias', 'kernel']
        >>> step.model(step.params)(jnp.ones((3, 2))).shape
        (3, 1)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"`make_nnx_step(model=...)` must be a flax.nnx module, got {_name_of(model)}; the "
            "order is (model, loss, optimizer)."
        )
    if not callable(loss):
        raise _no_loss("make_nnx_step(loss=...)", "(model, batch)", loss)
    _check_optimizer("make_nnx_step", optimizer)
    return NnxStep(model, loss, optimizer)


def _no_loss(argument: str, signature: str, value: Any) -> TypeError:
    return TypeError(
        f"`{argument}` must be a function {signature} -> (loss, metrics), got {_name_of(value)}; "
        "the optimizer comes after it."
    )


def _check_optimizer(function: str, optimizer: Any) -> None:
    if not (callable(getattr(optimizer, "init", None)) and hasattr(optimizer, "update")):
        raise TypeError(
            f"`{function}(optimizer=...)` must be an optax optimizer, such as `optax.sgd(0.1)`, "
            f"got {_name_of(optimizer)}; call a function that makes one, and of an "
            "`nnx.Optimizer` give its `tx`."
        )


def _name_of(value: Any) -> str:
    """A short name for what may have a long repr."""
    return getattr(value, "__name__", None) or f"a {type(value).__name__}"


def averaged_leaves(step: Step, params: Params) -> Any:
    """Tree of booleans like `params`: which leaves the step says are averaged; none by default."""
    named = getattr(step, "averaged", None)
    return jax.tree.map(lambda _: False, params) if named is None else named(params)


def clock_fn(
    step: Step, steps: int, first: int = 0
) -> Callable[..., tuple[Params, WorkerState, Mapping[str, jax.Array]]]:
    """The function of a clock, or of a part of it, not jitted.

    It takes `(params, worker_state, batch, key, clock, carried=None)`.

    Args:
        step: what to repeat.
        steps: how many; with more than one, every leaf of `batch` has a leading axis of that size.
        first: the number of the first of them in its clock.

    Returns:
        A function giving the delta, the new worker state, and the metrics' means over the steps.
        `key` is the worker's; clock and number are folded in to give each step its own. With
        `carried`, progress made before, steps begin at `params + carried` and the delta contains
        it. The delta is summed up beside the parameters rather than subtracted from them at the
        end, which would cost it its low bits.
    """

    def run(
        params: Params,
        state: WorkerState,
        batch: Batch,
        key: jax.Array,
        clock: Any,
        carried: Params | None = None,
    ) -> tuple[Params, WorkerState, Mapping[str, jax.Array]]:
        key = jax.random.fold_in(key, clock)
        if steps == 1 and carried is None:
            return step(params, state, batch, jax.random.fold_in(key, first))

        def body(carry: tuple[Params, WorkerState], each: tuple[Batch, jax.Array]) -> Any:
            total, state = carry
            batch, number = each
            local = jax.tree.map(jnp.add, params, total)
            delta, state, metrics = step(local, state, batch, jax.random.fold_in(key, number))
            return (jax.tree.map(jnp.add, total, delta), state), metrics

        total = jax.tree.map(jnp.zeros_like, params) if carried is None else carried
        if steps == 1:
            (delta, state), metrics = body((total, state), (batch, jnp.int32(first)))
            return delta, state, metrics
        numbers = jnp.arange(first, first + steps, dtype=jnp.int32)
        (delta, state), metrics = jax.lax.scan(body, (total, state), (batch, numbers))
        return delta, state, jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)

    return run


def check_step(step: Step, params: Params, batch: Batch) -> None:
    """Check by shapes alone that a step fits its parameters; nothing is computed.

    Raises:
        TypeError: if a step has no `init`, or gives something other than three values; if a leaf of
            the parameters or of the batch is no array; if the metrics are no flat dict.
        ValueError: if parameters are not floating point; if a delta differs from them, or the
            worker state from the one before, in structure, shape or dtype (both paths are named);
            if a metric is no scalar or has the name of a column.
    """
    if not callable(step) or not callable(getattr(step, "init", None)):
        raise TypeError(
            f"`step` must be callable and have an `init(params)`, got {step!r}; "
            "`ssp.make_step(loss_fn, optimizer)` makes one."
        )
    shapes = check_params(params)
    shapes_of("batch", batch)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def first(params: Params, batch: Batch, key: jax.Array) -> tuple[WorkerState, Any]:
        state = step.init(params)
        return state, step(params, state, batch, key)

    before, result = jax.eval_shape(first, params, batch, key)
    if not (isinstance(result, tuple) and len(result) == 3):
        raise TypeError("`step` must return (delta, worker_state, metrics).")
    delta, state, metrics = result
    check_like("the step's", "delta", delta, "params", shapes)
    check_like("the step's", "worker_state", state, "init(params)", before)
    _check_metrics(metrics)


def _check_metrics(metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise TypeError(f"the step's metrics must be a dict, got a {type(metrics).__name__}.")
    for name, value in metrics.items():
        if name in CLOCK_COLUMNS:
            raise ValueError(f"metric {name!r} needs another name: {CLOCK_COLUMNS} are taken.")
        if not hasattr(value, "shape"):
            raise TypeError(
                f"metric {name!r} must be a scalar, got a {type(value).__name__}; give each number "
                "in it a name of its own."
            )
        if value.shape != ():
            raise ValueError(f"metric {name!r} must be a scalar, got shape {value.shape}.")


def _loss_and_metrics(result: Any) -> tuple[jax.Array, Metrics]:
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(
            "a loss function must return (loss, metrics), metrics a dict of scalars "
            f"(or an empty one), got {type(result).__name__}."
        )
    if jnp.shape(result[0]):
        raise TypeError(
            f"a loss function must return a scalar loss, got shape {jnp.shape(result[0])}; "
            "take the mean over the batch."
        )
    return result


def _flat(state: Any) -> dict[str, jax.Array]:
    """The arrays of an nnx state by dotted path."""
    return {".".join(map(str, path)): variable[...] for path, variable in nnx.to_flat_state(state)}


def _filled(shapes: Any, arrays: Mapping[str, jax.Array]) -> Any:
    """An nnx state with these arrays."""
    return nnx.from_flat_state(
        [
            (path, variable.replace(arrays[".".join(map(str, path))]))
            for path, variable in nnx.to_flat_state(shapes)
        ]
    )


def _seeded(rngs: Any, key: jax.Array) -> Any:
    """The model's random state, its streams started anew from `key`."""
    leaves, structure = jax.tree.flatten(rngs)
    fresh: list[jax.Array] = []
    for number, leaf in enumerate(leaves):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            fresh.append(jnp.zeros_like(leaf))
        elif leaf.shape == ():
            fresh.append(jax.random.fold_in(key, number))
        else:
            fresh.append(jax.random.split(jax.random.fold_in(key, number), leaf.shape))
    return jax.tree.unflatten(structure, fresh)
