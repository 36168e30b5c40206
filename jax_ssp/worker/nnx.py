"""Training steps of flax.nnx models.

What a model holds is told apart once, when the step is made: what is trained, what is averaged,
what stays the worker's, and the random streams.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jax_ssp.checks import function, optional
from jax_ssp.pairs import on_pairs
from jax_ssp.trees import all_finite
from jax_ssp.views import seeing
from jax_ssp.worker.check import (
    check_optimizer,
    loss_and_metrics,
    name_of,
    no_loss,
    with_key,
)
from jax_ssp.worker.gradient import metrics_of_scale, value_and_gradient
from jax_ssp.worker.nnx_parts import Chosen, beside, key_of_loss, like_before, parts_of, seeded
from jax_ssp.worker.step import (
    DESCENT,
    Batch,
    CountTokens,
    Metrics,
    WorkerState,
    updates_of,
)

NnxLoss: TypeAlias = Callable[..., tuple[jax.Array, Metrics]]
"""`(model, batch) -> (loss, metrics)`, or `(model, batch, key) -> (loss, metrics)`."""


class NnxState(NamedTuple):
    """What a worker of an nnx model has for itself.

    Attributes:
        optimizer: the optimizer's state.
        kept: what of the model is neither trained nor averaged, by dotted path.
    """

    optimizer: optax.OptState
    kept: dict[str, jax.Array]


class NnxStep:
    """A step of a flax.nnx model. Made by `make_nnx_step`.

    Attributes:
        params: the model's arrays, as a flat dict from dotted path to array: what is trained, and
            what is averaged over the workers (BatchNorm statistics).
        frozen: parameters that are not trained, as another such dict. They stay as they are, and
            are never sent.
        optimizer, tokens: as they were given.
    """

    def __init__(
        self,
        model: nnx.Module,
        loss: NnxLoss,
        optimizer: optax.GradientTransformation,
        wrt: Any = nnx.Param,
        tokens: CountTokens | None = None,
    ) -> None:
        model = nnx.clone(model)
        model.train()
        nnx.pop(model, nnx.Intermediate)
        chosen = Chosen(wrt)
        self._graph, trained, frozen, self._rngs, rest = nnx.split(
            model, chosen.trains, chosen.freezes, nnx.RngState, ...
        )
        self._trained = parts_of(trained)
        chosen.check(self._trained, model)
        self._parts = [*self._trained, *parts_of(frozen), *parts_of(rest)]
        self._loss = with_key("make_nnx_step(loss=...)", loss)
        self.optimizer = optimizer
        self.tokens = tokens
        values = {name: value for part in self._parts for name, value in part.arrays.items()}
        count = Counter(name for part in self._parts for name in part.arrays)
        repeated = [name for name in count if count[name] > 1]
        if repeated:
            raise ValueError(f"`make_nnx_step(model=...)` has several variables named {repeated}.")
        self._paths = {name: path for part in self._trained for name, path in part.paths.items()}
        still = {name for part in parts_of(frozen) for name in part.arrays}
        kept = {name for part in parts_of(rest) for name in part.arrays if part.stays(name)}
        self.frozen = {name: jnp.asarray(values[name]) for name in still}
        self._kept = {name: jnp.asarray(values[name]) for name in kept}
        self.params: dict[str, jax.Array] = {
            name: jnp.asarray(values[name]) for name in values if name not in still | kept
        }
        self.of_gradients = False
        self._tx = self._seeing(optimizer)

    takes_round = True

    @cached_property
    def gradient(self) -> NnxStep:
        """The step whose delta is minus the gradient; the optimizer is elsewhere."""
        return self._with(optimizer=DESCENT, of_gradients=True, _tx=self._seeing(DESCENT))

    def _seeing(self, optimizer: optax.GradientTransformation) -> Any:
        return seeing(on_pairs(optimizer), self.views, self.params, "the optimizer")

    def holding(self, frozen: dict[str, jax.Array]) -> NnxStep:
        """The same step, with other arrays in place of `frozen`.

        In a jitted function, `step.holding(frozen).model(params)` has what is frozen as an argument
        rather than as constants of the program.
        """
        return self._with(frozen=frozen)

    def _with(self, **changed: Any) -> NnxStep:
        """A copy in which this is different, and what is made of it is made anew."""
        other = copy.copy(self)
        vars(other).pop("gradient", None)
        vars(other).update(changed)
        return other

    def init(self, params: dict[str, jax.Array]) -> NnxState:
        return NnxState(self._tx.init(params), self._kept)

    def averaged(self, params: Mapping[str, jax.Array]) -> dict[str, bool]:
        """Which parameters are not trained, but averaged over the workers."""
        return {name: name not in self._paths for name in params}

    def shardings(self, params: Mapping[str, jax.Array]) -> dict[str, jax.P]:
        """How parameters are to lie on a mesh, as the model's metadata says."""
        return {name: p.spec for p in self._parts for name in p.arrays if name in params}

    def views(self, params: Mapping[str, Any]) -> list[Any]:
        """What is trained as optimizers may see it: dicts in dicts, nnx states, the flat dict."""
        nested: dict[Any, Any] = {}
        for name, path in self._paths.items():
            inner = nested
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = params[name]
        variables, arrays = (
            nnx.from_flat_state([part.filled(params, bare) for part in self._trained])
            for bare in (False, True)
        )
        return [nested, arrays, variables, {name: params[name] for name in self._paths}]

    def model(self, params: Mapping[str, jax.Array], state: NnxState | None = None) -> Any:
        """The model with these parameters, in evaluation mode (no dropout, running statistics).

        Args:
            params: such as a run's result.
            state: of a worker, to have its counters and the like; by default they are as they were
                in the model that the step was made of.
        """
        kept = self._kept if state is None else state.kept
        kept, frozen, rngs = beside(params, (kept, self.frozen, self._rngs))
        model = self._merge({**params, **kept, **frozen}, rngs)
        model.eval()
        return model

    def __call__(
        self,
        params: dict[str, jax.Array],
        worker_state: NnxState,
        batch: Batch,
        key: jax.Array,
        round: Any = 0,
    ) -> tuple[dict[str, jax.Array], WorkerState, Metrics]:
        trained = {name: params[name] for name in self._paths}
        rest = {name: value for name, value in params.items() if name not in trained}
        before, kept = worker_state

        def loss_fn(trained: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
            values = {**rest, **kept, **self.frozen, **trained}
            model = self._merge(values, seeded(self._rngs, key))
            loss, metrics = loss_and_metrics(self._loss(model, batch, key_of_loss(key)))
            return loss, (metrics, self._read(model, {**rest, **kept}))

        (loss, (metrics, new)), grads = value_and_gradient(loss_fn, trained, before)
        still = {name: jnp.zeros_like(value) for name, value in rest.items()}
        updates, state = updates_of(
            self._tx, {**grads, **still}, before, params, loss, round,
            lambda params: loss_fn({name: params[name] for name in self._paths})[0],
        )  # fmt: skip
        # Of a step that is not finite nothing stays, though its optimizer may have skipped it.
        good = all_finite([grads, loss]) if rest else True
        moved = {
            name: jnp.where(good, new[name] - old, jnp.zeros_like(old))
            for name, old in rest.items()
        }
        kept = {name: new[name] for name in kept}
        metrics = {**metrics, "loss": loss, **metrics_of_scale(before, state)}
        return {**updates, **moved}, NnxState(state, kept), metrics

    def _merge(self, values: Mapping[str, jax.Array], rngs: Any) -> Any:
        state = nnx.from_flat_state([part.filled(values) for part in self._parts])
        return nnx.merge(self._graph, state, rngs)

    def _read(self, model: Any, before: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """These values as they are now; what a call adds to the model (`sow`) is left out."""
        now = {name: v for part in parts_of(nnx.state(model)) for name, v in part.arrays.items()}
        return {name: like_before(now.get(name, value), value) for name, value in before.items()}


def make_nnx_step(
    model: nnx.Module,
    loss: NnxLoss,
    optimizer: optax.GradientTransformation,
    wrt: Any = nnx.Param,
    tokens: CountTokens | None = None,
) -> NnxStep:
    r"""Make a training step from a flax.nnx model.

    Of what the model holds,

    - `nnx.Param` variables of floating point are trained by the optimizer, those that `wrt` picks;
    - `nnx.Param` variables that it does not pick are *frozen*: they are neither trained nor sent,
      and lie once on each device, for all its workers. What a call assigns to them is lost;
    - all other arrays of floating point (BatchNorm's mean and variance, say, and plain attributes)
      are averaged over the workers, whatever weight and transform the server has for what is
      trained: they stay in the range of what workers came to, and a step that is not finite leaves
      them alone;
    - what cannot be averaged stays the worker's own: integers, booleans, keys and untrained
      complex numbers (a counter, a mask), what is not finite from the start, and `nnx.Cache`. The
      evaluated model has it as it was in the beginning;
    - random streams (dropout) are seeded anew for each worker, clock and step;
    - what a call adds to the model (`sow`) is gone after it; the loss may read it.

    The optimizer, and the server's transforms too, see what is trained as nested dicts by path,
    `{"layers": {0: {"kernel": ...}}}`, so that masks and labels can be written for that: functions
    of it, or a tree, which may as well be an `nnx.State` as `nnx.state(model, wrt)` gives it, or
    flat like `step.params`. They are told the loss, as `make_step` says.

    Random numbers replay bit for bit, whether they come from the model's own streams
    (`nnx.Dropout`) or from the key of the loss: both are functions of the run's seed, the worker,
    the clock and the step in it, and so the same whatever ran before.

    The model itself is copied, not changed.

    Args:
        model: the model; train it from `step.params`, use it as `step.model(result.params)`.
        loss: `(model, batch) -> (loss, metrics)` or `(model, batch, key) -> (loss, metrics)`,
            called with the model in training mode; a metric named "loss" gives way to the loss. It
            gets a key if its third argument is called `key` or has no default.
        optimizer: any optax optimizer; its state belongs to the worker.
        wrt: which parameters to train, as a filter of flax.nnx: a type (`nnx.LoRAParam`), a
            function of path and variable, `nnx.PathContains("head")`, or a list of such, of which
            each picks some. A type of variable that is no `nnx.Param` may be trained too. What
            flax changes itself (`nnx.BatchStat`, `nnx.RngState`, `nnx.Cache`) is not.
        tokens: batch -> the tokens in it, by its shapes, where they are to be counted; see
            `make_step`.

    Returns:
        A step with `params`, the model's initial arrays by dotted path (a dot within a name is
        written as `\\.`), `frozen`, those it leaves as they are, and `model(params)`, which puts
        them together again.

    Raises:
        TypeError: if `model` is no flax.nnx module, `loss` no such function, `optimizer` no optax
            optimizer, or `wrt` no filter.
        ValueError: if `wrt` picks no parameter of the model.

    Example:
        >>> model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        >>> def loss(model, batch):
        ...     return jnp.mean(model(batch) ** 2), {}
        >>> def mask(params):
        ...     return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)
        >>> step = make_nnx_step(model, loss, optax.adamw(0.1, mask=mask))
        >>> sorted(step.params)
        ['bias', 'kernel']
        >>> step.model(step.params)(jnp.ones((3, 2))).shape
        (3, 1)

        Only what is low in rank is trained and sent:

        >>> tuned = nnx.LoRA(2, 1, 1, base_module=model, rngs=nnx.Rngs(1))
        >>> step = make_nnx_step(tuned, loss, optax.adamw(0.1), wrt=nnx.LoRAParam)
        >>> sorted(step.params), sorted(step.frozen)
        (['lora_a', 'lora_b'], ['base_module.bias', 'base_module.kernel'])
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"`make_nnx_step(model=...)` must be a flax.nnx module, got {name_of(model)}; the "
            "order is (model, loss, optimizer). `nnx.bridge.ToNNX` makes one of flax.linen's."
        )
    if not callable(loss):
        raise no_loss("make_nnx_step(loss=...)", "(model, batch)", loss)
    check_optimizer("make_nnx_step", optimizer)
    optional("make_nnx_step(tokens=...)", tokens, function, "(batch) -> tokens")
    return NnxStep(model, loss, optimizer, wrt, tokens)
