"""How optimizers see parameters.

Users have parameters as they like them, a flat dict from dotted path to array, say. Masks and
labels are written for what an optimizer sees: of a flax.nnx model, nested dicts by path. A *view*
is the same leaves arranged that way, without those that are not trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import optax

from jax_ssp.trees import check_like, shapes_of

# Parameters -> the trees that an optimizer may see in their place; the first that suits it is used.
Views: TypeAlias = Callable[[Any], Sequence[Any]]

# Extra arguments of an update that are trees like the parameters, or functions of such a tree.
_TREES = ("grad", "stale_params")
_VALUES = ("value_fn", "obj_fn")


class View:
    """One arrangement of the leaves of a tree.

    Args:
        like: the tree.
        numbered: the arrangement, with the number of a leaf of `like` in place of each leaf.

    Example:
        >>> view = View({"a.b": 5.0, "c": 6.0}, {"a": {"b": 0}})
        >>> view.of({"a.b": 1.0, "c": 2.0})
        {'a': {'b': 1.0}}
        >>> view.back({"a": {"b": 3.0}}, {"a.b": 1.0, "c": 2.0})
        {'a.b': 3.0, 'c': 2.0}
    """

    def __init__(self, like: Any, numbered: Any) -> None:
        self._whole = jax.tree.structure(like)
        self._places, self._structure = jax.tree.flatten(numbered)

    def of(self, tree: Any) -> Any:
        """What an optimizer sees of a tree."""
        leaves = jax.tree.leaves(tree)
        return self._structure.unflatten([leaves[place] for place in self._places])

    def back(self, seen: Any, tree: Any) -> Any:
        """The tree, with the leaves of what was seen in their places."""
        leaves = jax.tree.leaves(tree)
        for place, leaf in zip(self._places, jax.tree.leaves(seen), strict=True):
            leaves[place] = leaf
        return self._whole.unflatten(leaves)


def seeing(
    tx: optax.GradientTransformation, views: Views, params: Any, name: str
) -> optax.GradientTransformationExtraArgs:
    """The transform of trees like `params` that shows `tx` a view of them.

    What is in no view passes unchanged.

    Args:
        tx: what is to see a view.
        views: the trees it may be shown, the best one first; the first is used for which its `init`
            works, since a mask that is a tree fits one of them only.
        params: for their structure, shapes and dtypes.
        name: what `tx` is called in messages.

    Raises:
        ValueError: if there is no view, or one has other leaves; from `update`, if the updates
            differ from what was seen in structure or shape.
    """
    if isinstance(tx, optax.GradientTransformation):  # not optax.MultiSteps, which needs it not
        tx = optax.with_extra_args_support(tx)
    shapes = shapes_of("params", params)
    structure = jax.tree.structure(shapes)
    numbers = structure.unflatten(range(structure.num_leaves))
    view = _suiting(tx, [View(shapes, numbered) for numbered in _of_leaves(views, numbers)], shapes)

    def init(params: Any) -> Any:
        return tx.init(view.of(params))

    def update(updates: Any, state: Any, params: Any = None, **extras: Any) -> tuple[Any, Any]:
        for tree in _TREES:
            if tree in extras:
                extras[tree] = view.of(extras[tree])
        for value in _VALUES:
            if value in extras:
                extras[value] = _of_view(extras[value], view, params)
        if "grad_fn" in extras:
            grads = _of_view(extras["grad_fn"], view, params)
            extras["grad_fn"] = lambda *given: view.of(grads(*given))
        seen = view.of(updates)
        given = None if params is None else view.of(params)
        new, state = tx.update(seen, state, given, **extras)
        check_like(f"{name}'s", "updates", new, "params", seen, any_float=True)
        return view.back(new, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _of_leaves(views: Views, numbers: Any) -> list[Any]:
    """The views, of leaves that are numbered."""
    known, found = jax.tree.leaves(numbers), list(views(numbers))
    for seen in found:
        leaves = [leaf if type(leaf) is int else -1 for leaf in jax.tree.leaves(seen)]
        if not set(leaves) <= set(known) or len(set(leaves)) < len(leaves):
            raise ValueError(
                "`views(params)` of a step must give trees of the leaves of `params`, each at most "
                f"once, got other leaves than those in {jax.tree.structure(seen)}."
            )
    if not found:
        raise ValueError("`views(params)` of a step must give at least one tree, got none.")
    return found


def _suiting(tx: optax.GradientTransformation, views: list[View], shapes: Any) -> View:
    failed: Exception | None = None
    for view in views:
        try:
            jax.eval_shape(tx.init, view.of(shapes))
        except Exception as error:  # whatever a mask of another structure leads to
            failed = failed or error
        else:
            return view
    raise failed or ValueError("there is no view")


def _of_view(function: Callable[..., Any], view: View, params: Any) -> Callable[..., Any]:
    """A function of parameters as one of their view; what is not in it is as in `params`."""

    def seen(given: Any, *others: Any, **named: Any) -> Any:
        return function(view.back(given, params), *others, **named)

    return seen
