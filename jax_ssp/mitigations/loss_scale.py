"""Gradients in float16 that would be rounded to zero: the loss is scaled up, the gradient down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import integer, number
from jax_ssp.mitigations._shared import check_transform
from jax_ssp.trees import Tree, all_finite, check_tree, widened

# What a step tells an optimizer that is a function of parameters.
_OF_PARAMS = ("value_fn", "obj_fn", "grad_fn")


class LossScale(NamedTuple):
    """The state of `dynamic_loss_scale`.

    Attributes:
        scale: what the next loss is multiplied by (float32).
        good: steps since the scale last changed that were finite (int32).
        skipped: steps that were skipped so far (int32).
        finite: whether the last gradient was (boolean).
        inner: the optimizer's state.
    """

    scale: jax.Array
    good: jax.Array
    skipped: jax.Array
    finite: jax.Array
    inner: optax.OptState

    def up(self, loss: jax.Array) -> jax.Array:
        """The loss times the scale, in at least float32."""
        loss = widened(loss)
        return loss * self.scale.astype(loss.dtype)

    def down(self, gradient: Tree) -> Tree:
        """The gradient of that as the gradient of the loss, in at least float32."""

        def leaf(scaled: jax.Array) -> jax.Array:
            scaled = widened(scaled)
            return scaled * (1 / self.scale).astype(scaled.dtype)

        return jax.tree.map(leaf, gradient)


def loss_scale_of(state: Any) -> LossScale | None:
    """The `LossScale` within a worker's state, for a step written by hand; None without one.

    Args:
        state: an optimizer's, or a tree that holds it.

    Raises:
        TypeError: if it is no tree.
        ValueError: if there are several.

    Example:
        >>> state = dynamic_loss_scale(optax.sgd(0.1)).init(jnp.zeros(2))
        >>> scale = loss_scale_of({"optimizer": state})
        >>> scale.up(jnp.float16(2)), scale.down(jnp.float16(1))
        (Array(65536., dtype=float32), Array(3.0517578e-05, dtype=float32))
    """

    def is_scale(node: Any) -> bool:
        return isinstance(node, LossScale)

    check_tree("loss_scale_of(state=...)", state)
    found = [node for node in jax.tree.leaves(state, is_leaf=is_scale) if is_scale(node)]
    if len(found) > 1:
        raise ValueError(
            f"an optimizer can have one `dynamic_loss_scale`, not {len(found)}: put one around it."
        )
    return found[0] if found else None


def dynamic_loss_scale(
    optimizer: optax.GradientTransformation,
    initial: float = 2.0**15,
    period: int = 2000,
    factor: float = 2.0,
    least: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Have a worker's optimizer work with a loss that is computed in float16.

    Numbers below 6e-8 are zero in float16, and many gradients are. So the steps of `make_step` and
    `make_nnx_step` multiply the loss by a scale before they take its gradient, and the gradient by
    its inverse after, in float32. The scale finds itself:

    .. math::
        s' = \begin{cases}
            \max(s / f, s_{min}) & \text{if a number of the gradient is not finite} \\
            s f & \text{after } n \text{ steps in a row that were finite} \\
            s & \text{else}
        \end{cases}

    A step whose gradient is not finite is skipped: parameters, the optimizer's state and statistics
    (BatchNorm) stay as they are. Each worker has a scale of its own. The history shows it as the
    metric `loss_scale`, and as `skipped_steps` the share of a clock's steps that were skipped.

    Put it around the whole optimizer, so that nothing sees a gradient that is not finite. The
    optimizer gets gradients and parameters in at least float32. bfloat16 needs none of this.

    Args:
        optimizer: given to `make_step` or `make_nnx_step` with this around it. (A step written by
            hand uses `loss_scale_of`.)
        initial: :math:`s` at first. The gradient of a loss in float16 begins with it, so more than
            65504 is infinite there.
        period: :math:`n` (steps).
        factor: :math:`f`; a power of two keeps all bits.
        least: :math:`s_{min}`.

    Returns:
        An optimizer whose state is a `LossScale`.

    Raises:
        TypeError: if `optimizer` is no optax optimizer, or a number none.
        ValueError: if one is out of range: `initial` and `least` must be positive, `initial` at
            least `least`, `factor` greater than 1, `period` at least 1.

    Example:
        >>> scaled = dynamic_loss_scale(optax.sgd(0.5), initial=8.0, period=2)
        >>> params = jnp.zeros(1)
        >>> state = scaled.init(params)
        >>> for gradient in (1.0, jnp.inf, 1.0, 1.0):
        ...     updates, state = scaled.update(jnp.full(1, gradient), state, params)
        ...     print(updates.tolist(), float(state.scale), int(state.skipped))
        [-0.5] 8.0 0
        [0.0] 4.0 1
        [-0.5] 4.0 1
        [-0.5] 8.0 1

    Reference:
        Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740. The rule and its
        defaults are those of `jmp.DynamicLossScale` (github.com/google-deepmind/jmp).
    """
    inner = check_transform("dynamic_loss_scale(optimizer=...)", optimizer, "an optax optimizer")
    least = number("dynamic_loss_scale(least=...)", least, above=0, most=_MOST)
    initial = number("dynamic_loss_scale(initial=...)", initial, above=0, most=_MOST)
    factor = number("dynamic_loss_scale(factor=...)", factor, above=1, most=_MOST)
    period = integer("dynamic_loss_scale(period=...)", period, least=1, most=2**31 - 1)
    if initial < least:
        raise ValueError(
            f"`dynamic_loss_scale(initial=...)` must be at least `least`, which is {least}, got "
            f"{initial}."
        )
    rule = _Rule(period, factor, least)

    def init(params: optax.Params) -> LossScale:
        zero = jnp.zeros((), jnp.int32)
        return LossScale(
            jnp.float32(initial), zero, zero, jnp.bool(True), inner.init(_widened(params))
        )

    def update(
        updates: optax.Updates,
        state: LossScale,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LossScale]:
        finite = all_finite(updates)
        gradients, wider = _widened(updates), _widened(params)
        told = _told(extra_args, params)

        def applied() -> tuple[optax.Updates, optax.OptState]:
            return inner.update(gradients, state.inner, wider, **told)

        def skipped() -> tuple[optax.Updates, optax.OptState]:
            shapes, _ = jax.eval_shape(applied)
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), state.inner

        given, of_inner = jax.lax.cond(finite, applied, skipped)
        return given, rule.adjusted(state, finite)._replace(inner=of_inner)

    return optax.GradientTransformationExtraArgs(init, update)


class _Rule(NamedTuple):
    """How the scale changes; see `dynamic_loss_scale`."""

    period: int
    factor: float
    least: float

    def adjusted(self, state: LossScale, finite: jax.Array) -> LossScale:
        """What is to be remembered after a gradient that was finite or not; `inner` as it was."""
        factor = jnp.float32(self.factor)
        grown, shrunk = state.scale * factor, state.scale / factor
        grown = jnp.where(jnp.isfinite(grown), grown, state.scale)
        good = jnp.where(finite, state.good + 1, 0)
        full = good >= self.period
        scale = jnp.where(full, grown, state.scale)
        scale = jnp.where(finite, scale, jnp.maximum(shrunk, jnp.float32(self.least)))
        skipped = state.skipped + jnp.where(finite, 0, 1).astype(jnp.int32)
        good = jnp.where(full, 0, good).astype(jnp.int32)
        return LossScale(scale, good, skipped, finite, state.inner)


_MOST = float(jnp.finfo(jnp.float32).max)


def _widened(tree: Tree) -> Tree:
    return jax.tree.map(widened, tree)


def _told(extra_args: dict[str, Any], params: Any) -> dict[str, Any]:
    """Extra arguments for an optimizer whose parameters are wider than these."""
    return {
        name: _of_wider(value, params) if name in _OF_PARAMS else value
        for name, value in extra_args.items()
    }


def _of_wider(function: Callable[..., Any], params: Any) -> Callable[..., Any]:
    """A function of parameters as one of wider ones."""

    def rounded(given: Any, *others: Any, **named: Any) -> Any:
        given = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), given, params)
        return function(given, *others, **named)

    return rounded
