"""Training steps; a clock is made of them (see `clock.py`).

A step is a pure function `(params, worker_state, batch, key) -> (delta, worker_state, metrics)`
with an `init(params) -> worker_state`. One can jit, scan and test it alone; `make_step` makes one
from a loss and an optimizer, `make_nnx_step` from a flax.nnx model, and any object of that shape
will do. A clock of H local steps is one `lax.scan` over such a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import function, optional
from jax_ssp.pairs import descent, on_pairs
from jax_ssp.trees import Params, check_arrays, check_sizes, shapes_of
from jax_ssp.worker.check import check_optimizer, loss_and_metrics, no_loss
from jax_ssp.worker.gradient import metrics_of_scale, value_and_gradient

WorkerState: TypeAlias = Any
Batch: TypeAlias = Any
Metrics: TypeAlias = Mapping[str, jax.Array]
CountTokens: TypeAlias = Callable[[Any], int]
"""Tokens in a batch, by its shapes: a tree of `jax.ShapeDtypeStruct`."""


DESCENT = optax.scale(-1.0)
"""The optimizer of a step that is minus a gradient."""


class Step(Protocol):
    """What a worker repeats: one local step.

    It is traced when it is first used, so it must not change after that. Parameters that are not
    trained but only averaged (running statistics) can be named by a method
    `averaged(params) -> tree of booleans` (they stay among the values that workers come to); if the
    server's transforms, with their masks, are to see parameters otherwise arranged, a method
    `views(params) -> list of trees` says how (see `jax_ssp.views`). Large arrays that a step reads
    and never changes can be an attribute `frozen`, with a method `holding(frozen) -> step` that
    gives the same step with others in their place: then they are arguments of its programs, one
    copy on a device, where an array that it merely uses would be written into each program.

    One that has a method `tokens(batch) -> int` says how many tokens are in a batch, of which it is
    given the shapes (`jax.ShapeDtypeStruct`): pushes then report them.

    A step with a true attribute `takes_round` is called with an argument `round` too: how many
    rounds the run has come to (see `jax_ssp.rounds`). One whose optimizer can be on the
    server says by `optimizer` which that is, and by `gradient` which step gives minus the gradient
    in place of updates: that has a true attribute `of_gradients`, and a clock's delta is then the
    mean over its batches, all of them at the same parameters.
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

    loss_fn: Callable[..., tuple[jax.Array, Metrics]]
    optimizer: optax.GradientTransformation
    frozen: Any = None
    of_gradients: bool = False
    tokens: CountTokens | None = None
    takes_round = True

    @cached_property
    def gradient(self) -> LossStep:
        """The step whose delta is minus the gradient; the optimizer is elsewhere."""
        return replace(self, optimizer=DESCENT, of_gradients=True)

    def holding(self, frozen: Any) -> LossStep:
        """The same step, with other arrays in place of `frozen`."""
        return replace(self, frozen=frozen)

    def init(self, params: Params) -> WorkerState:
        return on_pairs(self.optimizer).init(params)

    def __call__(
        self,
        params: Params,
        worker_state: WorkerState,
        batch: Batch,
        key: jax.Array,
        round: Any = 0,
    ) -> tuple[Params, WorkerState, Metrics]:
        given = (batch, key) if self.frozen is None else (batch, key, self.frozen)

        def loss_fn(params: Params) -> tuple[jax.Array, Metrics]:
            return loss_and_metrics(self.loss_fn(params, *given))

        (loss, metrics), grads = value_and_gradient(loss_fn, params, worker_state)
        optimizer = on_pairs(self.optimizer)
        delta, state = updates_of(
            optimizer, grads, worker_state, params, loss, round, lambda params: loss_fn(params)[0]
        )
        return delta, state, {**metrics, "loss": loss, **metrics_of_scale(worker_state, state)}


def make_step(
    loss_fn: Callable[..., tuple[jax.Array, Metrics]],
    optimizer: optax.GradientTransformation,
    frozen: Any = None,
    tokens: CountTokens | None = None,
) -> LossStep:
    """Make a training step from a loss and an optimizer.

    The optimizer's state belongs to the worker and never leaves it. As a plain loop would, the step
    tells the optimizer `value`, `grad` and `value_fn` (the loss, its gradient, and parameters ->
    loss on the same batch and key), so one that wants them works:
    `optax.contrib.reduce_on_plateau`, `optax.polyak_sgd`, `optax.lbfgs`, whose line search takes
    more gradients a step.

    A complex parameter is trained as two real ones, its real and its imaginary part (what
    `optax.contrib.split_real_and_imaginary` does). Its gradient is conjugated before: what
    `jax.grad` gives is the conjugate of the ascent.

    What is not to be trained (the base weights under LoRA, an embedding) is `frozen`: it is neither
    trained nor sent, and lies once on each device, for all its workers. An array that the loss
    merely uses would be written into each program. (`optax.masked` and `optax.set_to_zero` keep a
    parameter as it is too, but it is a parameter still, and travels.)

    Args:
        loss_fn: pure, `(params, batch, key) -> (loss, metrics)`; `loss` a scalar, `metrics` a
            dict of scalars, `key` a PRNG key of this worker, clock and step. With `frozen` it is
            called `(params, batch, key, frozen)`.
        optimizer: any optax optimizer; its updates are the delta.
        frozen: a tree of arrays of any dtype.
        tokens: batch -> the tokens in it, where these are to be counted. It is given the shapes of
            a step's batch (`jax.ShapeDtypeStruct`), so that nothing is waited for.

    Returns:
        A step whose metrics are `{**metrics, "loss": loss}`: a metric named "loss" gives way.

    Raises:
        TypeError: if `loss_fn` or `tokens` is no such function, `optimizer` no optax optimizer, or
            `frozen` no tree of arrays; from the step, if the optimizer needs an argument that a
            step does not have.

    Example:
        >>> import jax.numpy as jnp
        >>> def loss_fn(params, batch, key):
        ...     return jnp.sum((params["w"] - batch) ** 2), {}
        >>> step = make_step(loss_fn, optax.sgd(0.25))
        >>> params = {"w": jnp.zeros(2)}
        >>> delta, _, metrics = step(params, step.init(params), jnp.ones(2), jax.random.key(0))
        >>> delta["w"].tolist(), float(metrics["loss"])
        ([0.5, 0.5], 2.0)

        With frozen weights beside those that are trained:

        >>> def tuned(params, batch, key, frozen):
        ...     return jnp.sum((frozen["w"] + params["w"] - batch) ** 2), {}
        >>> step = make_step(tuned, optax.sgd(0.25), frozen={"w": jnp.full(2, 3.0)})
        >>> delta, _, _ = step(params, step.init(params), jnp.ones(2), jax.random.key(0))
        >>> delta["w"].tolist()
        [-1.0, -1.0]
    """
    if not callable(loss_fn):
        raise no_loss("make_step(loss_fn=...)", "(params, batch, key)", loss_fn)
    check_optimizer("make_step", optimizer)
    if frozen is not None:
        frozen = _checked_frozen(frozen)
    arguments = "params, batch, key" if frozen is None else "params, batch, key, frozen"
    try:
        function("make_step(loss_fn=...)", loss_fn, f"({arguments}) -> (loss, metrics)")
    except TypeError as error:
        if frozen is None:
            raise
        raise TypeError(f"{error} With `frozen`, `loss_fn` is given that too.") from error
    optional("make_step(tokens=...)", tokens, function, "(batch) -> tokens")
    return LossStep(loss_fn, optimizer, frozen, tokens=tokens)


def _checked_frozen(frozen: Any) -> Any:
    name = "make_step(frozen=...)"
    shapes_of(name, frozen)
    check_arrays(name, frozen)
    check_sizes(name, frozen)
    return jax.tree.map(jnp.asarray, frozen)


def updates_of(
    optimizer: optax.GradientTransformation,
    grads: Params,
    state: WorkerState,
    params: Params,
    loss: jax.Array,
    round: Any,
    value_fn: Callable[[Params], jax.Array],
) -> tuple[Params, WorkerState]:
    """The optimizer's updates and new state; it is told what a step knows, if it wants that.

    `grads` are as `jax.grad` gives them.

    Raises:
        TypeError: if it needs an argument that a step does not have.
    """
    if isinstance(optimizer, optax.GradientTransformation):
        optimizer = optax.with_extra_args_support(optimizer)
    grads = descent(grads)
    told: dict[str, Any] = {"value": loss, "grad": grads, "value_fn": value_fn, "round": round}
    # By other names, for who asks: optax's line searches refuse what they do not know.
    others: dict[str, Any] = {
        "obj_fn": value_fn,  # optax.contrib.sophia
        "grad_fn": lambda params, *_: descent(jax.grad(value_fn)(params)),  # optax.contrib.sam
    }
    known = [*told, *others]
    while True:
        try:
            return optimizer.update(grads, state, params, **told)
        except (TypeError, ValueError) as error:
            said = str(error)
            asked = [name for name in others if name in said]
            refuses = "nexpected keyword argument" in said  # one, or several
            refused = [name for name in told if refuses and f"'{name}'" in said]
            if refused:
                del told[refused[0]]
            elif asked:
                told[asked[0]] = others.pop(asked[0])
            elif "required keyword-only argument" in said:
                raise TypeError(
                    f"the optimizer needs more than a step has, which is {known}: {error}"
                ) from error
            else:
                raise
