"""Complex numbers: whatever computes with parameters sees a pair of real ones in place of each.

One rule for the whole house: a complex array is two real ones, its real and its imaginary part.
Optimizers, the server's transforms, mitigations, norms and compressors are given pairs, so each of
them does with a complex parameter what it does with two real ones. Trees without complex arrays
pass as they are.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

Tree: TypeAlias = Any


class Pair(NamedTuple):
    """A complex array as two real ones."""

    real: Any
    imaginary: Any


def is_complex(leaf: Any) -> bool:
    """Whether a leaf of a tree is a complex array, a complex number, or the shape of one."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, complex)
    return jnp.issubdtype(dtype, jnp.complexfloating)


def split(tree: Tree) -> Tree:
    """A pair in place of each complex leaf.

    Args:
        tree: arrays, and whatever else a tree may hold.

    Example:
        >>> split({"z": jnp.array([1 + 2j]), "w": jnp.array([3.0])})["z"].imaginary.tolist()
        [2.0]
    """

    def parts(leaf: Any) -> Any:
        return Pair(jnp.real(leaf), jnp.imag(leaf)) if is_complex(leaf) else leaf

    return jax.tree.map(parts, tree)


def join(tree: Tree) -> Tree:
    """Each pair as the complex array that it stands for; the inverse of `split`."""

    def whole(leaf: Any) -> Any:
        return jax.lax.complex(*leaf) if isinstance(leaf, Pair) else leaf

    return jax.tree.map(whole, tree, is_leaf=lambda leaf: isinstance(leaf, Pair))


def descent(gradients: Tree) -> Tree:
    """What `jax.grad` gives, turned to where a loss rises fastest: complex leaves conjugated.

    With respect to z = x + iy `jax.grad` of a real loss is ∂/∂x − i ∂/∂y. An optimizer needs
    ∂/∂x + i ∂/∂y, or it goes uphill in y.

    Reference:
        https://docs.jax.dev/en/latest/notebooks/autodiff_cookbook.html, "Complex numbers and
        differentiation".
    """
    return jax.tree.map(lambda leaf: jnp.conj(leaf) if is_complex(leaf) else leaf, gradients)


def on_pairs(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A transform or an optimizer, given pairs in place of complex arrays.

    Args:
        transform: anything with `init` and `update`.

    Returns:
        The same for trees without complex leaves. For others its state has pairs too, and `update`
        takes and gives complex arrays; extra arguments that are trees (`stale_params`) are split
        as well.

    Example:
        >>> signs = on_pairs(optax.sign_sgd(0.5))
        >>> gradient = jnp.array([2 - 8j])
        >>> updates, _ = signs.update(gradient, signs.init(gradient))
        >>> updates.tolist()
        [(-0.5+0.5j)]
    """

    if isinstance(transform, optax.GradientTransformation):
        transform = optax.with_extra_args_support(transform)

    @functools.wraps(transform.init)
    def init(params: Tree) -> Any:
        return transform.init(split(params))

    @functools.wraps(transform.update)
    def update(
        updates: Tree, state: Any, params: Tree = None, **extra_args: Any
    ) -> tuple[Tree, Any]:
        extra_args = {name: _split_argument(value) for name, value in extra_args.items()}
        given, state = transform.update(split(updates), state, split(params), **extra_args)
        # Pairs that came in, from an `on_pairs` around this one, go out as pairs.
        return join(given) if any(map(is_complex, jax.tree.leaves(updates))) else given, state

    return optax.GradientTransformationExtraArgs(init, update)


def _split_argument(value: Any) -> Any:
    """An extra argument; a function of parameters is given those that the pairs stand for."""
    if callable(value):
        return lambda params, *args, **kwargs: split(value(join(params), *args, **kwargs))
    return split(value)
