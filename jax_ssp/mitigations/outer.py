"""The delta as a gradient: any optax optimizer as the server's, and Nesterov's set right."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_ssp.checks import LEAST, MOST, flag, number, optional, share, shown
from jax_ssp.mitigations import correlation
from jax_ssp.mitigations._shared import check_transform, zeros
from jax_ssp.mitigations.correlation import Correlation, gain
from jax_ssp.pairs import on_pairs
from jax_ssp.rounds import has_schedule
from jax_ssp.trees import Tree, widened

RATE, MOMENTUM = 0.7, 0.9  # of DiLoCo


class NesterovState(NamedTuple):
    """The momentum, and how many merges it has seen."""

    momentum: Tree
    count: jax.Array


class OuterState(NamedTuple):
    """The state of the optimizer, and what is measured of the merges."""

    optimizer: Any
    measured: Correlation


def outer(
    optimizer: optax.GradientTransformation | Literal["auto"] | None = None,
    *,
    learning_rate: float | None = None,
    momentum: float | None = None,
    bias_correction: bool = False,
    effective_rate: float | None = None,
    measured: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Give a delta to an optimizer as its gradient.

    With delta :math:`\Delta` the optimizer gets the pseudo-gradient :math:`g = -\Delta`, and what
    it answers is applied. `outer(optax.sgd(1.0))` changes nothing; `outer(optax.sgd(0.7,
    momentum=0.9, nesterov=True))` is DiLoCo, `outer(optax.adam(1e-2))` is FedAdam. Without an
    optimizer it is Nesterov's momentum at DiLoCo's settings,

    .. math:: m \leftarrow \mu m + g, \quad \Delta' = -\eta \, (g + \mu m)

    and with `bias_correction` m counts as :math:`m / (1 - \mu^{t+1})` in merge t = 0, 1, ..: from
    the first merge on it is as large as deltas that are all the same will make it.

    What a momentum does depends on how much merges go the same way, so where there is one that is
    measured: the correlation ρ of a merge with the one before, and the *effective rate*
    :math:`\eta (1 + \mu / (1 - \mu \rho))`, how far a merge goes along its own delta (see
    `jax_ssp.mitigations.correlation`). They are among the metrics of the clocks that were merged,
    `outer/correlation` and `outer/effective_rate`, and in the summary.

    `outer("auto")` keeps the effective rate as it is: fewer local steps, more workers or a larger
    bound make merges go the same way, and then the learning rate is that much smaller,

    .. math:: \eta_t = E \, / \, (1 + \mu / (1 - \mu \bar\rho))

    where ρ̄ is a mean of the correlations up to the last merge (decaying by 0.9), and 0 before the
    first. E is DiLoCo's where merges have nothing in common: 0.7 · (1 + 0.9) = 1.33. To go on with
    what was tuned elsewhere, give the effective rate that was measured there.

    A `server_tx`: momenta then see each merge once.

    Args:
        optimizer: from gradients to updates, as `optax.sgd` and `optax.adam` are; None for
            Nesterov's momentum, "auto" for one whose effective rate is kept.
        learning_rate: η of Nesterov's momentum, 0.7 by default; of "auto", where merges have
            nothing in common.
        momentum: μ of that, 0.9 by default.
        bias_correction: whether m counts in full from the first merge on.
        effective_rate: E of "auto", in place of `learning_rate`.
        measured: whether correlation and effective rate are measured; by default where there is a
            momentum. It takes memory for one more delta in float32.

    Returns:
        A transform with the state of the optimizer, which is given all extra arguments that it can
        take; where something is measured, an `OuterState`.

    Raises:
        TypeError: if `optimizer` is not an optax optimizer, or a number none.
        ValueError: if a number is out of its range, or is given that has no effect.

    Example:
        >>> transform = outer(optax.sgd(0.5, momentum=0.5))
        >>> delta = jnp.array([4.0])
        >>> state = transform.init(delta)
        >>> for _ in range(3):
        ...     applied, state = transform.update(delta, state)
        ...     print(applied.tolist())
        [2.0]
        [3.0]
        [3.5]
        >>> correlation.measures(state.measured)
        {'outer/correlation': 1.0, 'outer/effective_rate': 1.0}

    Reference:
        Douillard et al. 2023, "DiLoCo: distributed low-communication training of language models",
        arXiv:2311.08105. Reddi et al. 2020, "Adaptive federated optimization", arXiv:2003.00295.
    """
    measured = optional("outer(measured=...)", measured, flag)
    bias_correction = flag("outer(bias_correction=...)", bias_correction)
    own = {"learning_rate": learning_rate, "momentum": momentum, "effective_rate": effective_rate}
    if optimizer is not None and not isinstance(optimizer, str):
        set_ = [name for name, value in own.items() if value is not None]
        set_ += ["bias_correction"] if bias_correction else []
        given = {**own, "bias_correction": bias_correction}
        if set_:
            raise ValueError(
                f"`outer({set_[0]}={shown(given[set_[0]])})` is of its own Nesterov; with an "
                "optimizer of optax it has no effect: leave one of both out."
            )
        inner = check_transform("outer(optimizer)", optimizer, "an optax optimizer")
        return on_pairs(_wrapped(inner, measured))
    if optimizer not in (None, "auto"):
        raise TypeError(
            "`outer(optimizer)` must be an optax optimizer such as `optax.sgd(0.7)`, got "
            f'{shown(optimizer)}; or "auto", or nothing.'
        )
    return on_pairs(_nesterov(optimizer == "auto", own, bias_correction, measured))


def _wrapped(
    inner: optax.GradientTransformationExtraArgs, measured: bool | None
) -> optax.GradientTransformationExtraArgs:
    """Any optimizer, and what is measured beside it."""

    def init(params: optax.Params) -> Any:
        state = inner.init(params)
        if not (_has_momentum(state) if measured is None else measured):
            return state
        return OuterState(state, correlation.begun(params, *_settings(inner)))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        gradients = jax.tree.map(jnp.negative, updates)
        if not isinstance(state, OuterState):
            return inner.update(gradients, state, params, **extra_args)
        given, known = inner.update(gradients, state.optimizer, params, **extra_args)
        return given, OuterState(
            known, correlation.after(state.measured, updates, state.measured.rate)
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _nesterov(
    auto: bool, own: dict[str, float | None], corrects: bool, measured: bool | None
) -> optax.GradientTransformationExtraArgs:
    """Nesterov's momentum, at one rate or at one effective rate."""
    learning_rate, momentum, effective = (
        optional(f"outer({name}=...)", value, number) for name, value in own.items()
    )
    decay = MOMENTUM if momentum is None else share("outer(momentum=...)", momentum, one=False)
    if effective is not None and (not auto or learning_rate is not None):
        raise ValueError(
            f'`outer(effective_rate={shown(effective)})` is what `outer("auto")` keeps, in place '
            "of `learning_rate`; leave one of both out."
        )
    if auto and measured is False:
        raise ValueError('`outer("auto")` goes by what is measured; leave `measured` out.')
    rate = RATE if learning_rate is None else learning_rate
    limits = {"above": 0, "least": LEAST, "most": MOST}
    rate = number("outer(learning_rate=...)", rate, **limits)
    kept = rate * (1 + decay) if effective is None else effective
    kept = number("outer(effective_rate=...)", kept, **limits)
    measures = auto or measured or (measured is None and decay > 0)

    def init(params: optax.Params) -> Any:
        state = NesterovState(zeros(params), jnp.int32(0))
        if not measures:
            return state
        settings = (kept / gain(decay, 0), decay, kept) if auto else (rate, decay)
        return OuterState(state, correlation.begun(params, *settings))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        before = state.optimizer if measures else state
        eta = kept / gain(decay, correlation.usual(state.measured)) if auto else rate
        count = jnp.minimum(before.count, jnp.iinfo(jnp.int32).max - 1) + 1
        velocity = jax.tree.map(lambda m, u: decay * m - widened(u), before.momentum, updates)
        counts = 1 / (1 - decay ** count.astype(jnp.float32)) if corrects else 1.0

        def applied(u: jax.Array, m: jax.Array) -> jax.Array:
            share = jnp.asarray(decay * counts, m.dtype)
            return (-jnp.asarray(eta, m.dtype) * (share * m - widened(u))).astype(u.dtype)

        new = NesterovState(velocity, count)
        given = jax.tree.map(applied, updates, velocity)
        if not measures:
            return given, new
        return given, OuterState(new, correlation.after(state.measured, updates, eta))

    return optax.GradientTransformationExtraArgs(init, update)


def _has_momentum(state: Any) -> bool:
    """Whether a state holds a mean of gradients."""

    def holds(node: Any) -> bool:
        return isinstance(node, tuple) and (hasattr(node, "trace") or hasattr(node, "mu"))

    return any(map(holds, jax.tree.leaves(state, is_leaf=holds)))


def _settings(inner: optax.GradientTransformationExtraArgs) -> tuple[Any, Any]:
    """Learning rate and momentum of an optimizer, by what it makes of three gradients; traceable.

    -1 each where it is something else than SGD at one learning rate.
    """
    unknown = -1.0, -1.0
    one = jnp.zeros((), jnp.float32)
    try:
        state = inner.init(one)
        nodes = jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "hyperparams"))
        if has_schedule(state) or any(hasattr(node, "hyperparams") for node in nodes):
            return unknown
        answers: list[jax.Array] = []
        for size in (1.0, 2.0):
            state = inner.init(one)
            for gradient in (size, 0.0, 0.0):
                given, state = inner.update(jnp.float32(gradient), state, one)
                answers.append(-given / size)
    except Exception:  # one that cannot be tried so
        return unknown
    first, second, third, *doubled = answers
    moves = second != 0
    mu = jnp.where(moves, third / jnp.where(moves, second, 1), 0)
    heavy = first
    ahead = first / (1 + mu)
    nesterov = jnp.isclose(second, ahead * mu * mu, rtol=1e-4) & moves
    rate = jnp.where(nesterov, ahead, heavy)
    linear = jnp.allclose(jnp.stack(doubled), jnp.stack([first, second, third]), rtol=1e-5)
    right = linear & (nesterov | jnp.isclose(second, heavy * mu, rtol=1e-4))
    return jnp.where(right, rate, -1), jnp.where(right, mu, -1)
