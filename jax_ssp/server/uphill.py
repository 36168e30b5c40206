"""A server transform must go where the deltas go: an optimizer given as one goes the other way.

An optimizer takes what it is given for a gradient and turns it round. A delta is an update already,
so a bare `optax.sgd(0.7)` on the server undoes what the workers did, in every merge, without a
word. `ssp.outer(optax.sgd(0.7))` is what is meant. So each transform is tried before a run, on a
tree of the same structure with every axis cut to at most 2, and of many leaves all but a few empty.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from jax_ssp.placement import Placement
from jax_ssp.trees import Tree

CALLS = 64  # with deltas, and as many with the same deltas turned round
STEEPEST = -0.1  # the least cosine between deltas and what a transform makes of them
PLAIN = 0.5  # a cosine from which on one call is enough
LEAVES = 8  # that are tried at most; the others are empty

OF_DELTAS = (
    "what it makes of deltas points against them, as an optimizer turns a gradient round. Give it "
    "as `ssp.outer(optimizer)`; or, if it is meant so, as `ssp.as_given(transform)`."
)
OF_GRADIENTS = (
    "what it makes of gradients points along them, in all that is trained or in one leaf of it, as "
    "where `optax.masked` hands on the gradients that its mask leaves out. Have it go down there "
    "too (`optax.partition`); or, if it is meant so, give it as `ssp.as_given(optimizer)`."
)


def check_downhill(
    name: str,
    tx: optax.GradientTransformationExtraArgs,
    params: Tree,
    averaged: Tree,
    extras: Mapping[str, Any],
    wants_base: bool,
    says: str = OF_DELTAS,
) -> None:
    """Refuse a transform that goes uphill; where it cannot be tried, say nothing.

    What counts is the odd part of what it makes of deltas, half the difference between what it
    makes of them and of them turned round: noise and weight decay, which read no delta, cancel.

    Args:
        name: what it is called in the message.
        tx: to be tried.
        params: for their structure, shapes and dtypes.
        averaged: tree of booleans like `params`: what the transform leaves alone.
        extras: what its update is told.
        wants_base: whether it is given `stale_params` too.
        says: what the message says of it, and the remedy.

    Raises:
        ValueError: if that odd part, summed over the calls, points against the deltas: in all that
            is trained, or in one leaf of it.
    """
    try:
        with warnings.catch_warnings(), on_host():
            warnings.simplefilter("ignore")
            cosines = _tried(tx, _Trial(params, averaged, dict(extras), wants_base))
    except Exception:  # whatever it does where arrays are small: it is only a trial
        return
    if min(cosines, default=1.0) < STEEPEST:
        raise ValueError(f"`{name}` goes uphill: {says}")


class _Trial:
    """Small parameters, deltas of them, and the sums by leaf of what came of these."""

    def __init__(
        self, params: Tree, averaged: Tree, extras: dict[str, Any], wants_base: bool
    ) -> None:
        self._rng = np.random.default_rng(0)
        leaves, self._structure = jax.tree.flatten(params)
        self._tried = _chosen([not flag for flag in jax.tree.leaves(averaged)], leaves)
        shapes = [tuple(min(size, 2) for size in leaf.shape) for leaf in leaves]
        self._like = [
            (shape if tried else (0,), np.dtype(leaf.dtype))
            for shape, leaf, tried in zip(shapes, leaves, self._tried, strict=True)
        ]
        self.params = self._normal(1.0)
        self._way = self._normal(0.01)
        base = jax.tree.map(np.add, self.params, self._normal(0.01))
        self.extras = {**extras, **({"stale_params": base} if wants_base else {})}
        self._sums = [[0.0, 0.0] for _ in leaves]  # of the odd parts, of the deltas

    def _normal(self, scale: float) -> Tree:
        def draw(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
            turned = np.exp(1j) if dtype.kind == "c" else 1.0
            return np.asarray(scale * turned * self._rng.normal(size=shape), dtype)

        return self._structure.unflatten([draw(*each) for each in self._like])

    def deltas(self) -> tuple[Tree, Tree]:
        """A delta, and the same turned round."""
        delta = jax.tree.map(np.add, self._way, self._normal(0.002))
        return delta, jax.tree.map(np.negative, delta)

    def add(self, delta: Tree, made: Tree, of_turned: Tree) -> None:
        """Count what came of a delta, and of it turned round."""
        leaves = map(jax.tree.leaves, (made, of_turned, delta))
        for sums, *each in zip(self._sums, *leaves, strict=True):
            plus, minus, given = (np.asarray(leaf).astype(np.complex128) for leaf in each)
            sums[0] += (plus - minus) / 2
            sums[1] += given

    def cosines(self) -> list[float]:
        """Of all leaves that are tried together, then of each where there is an odd part."""
        tried = [sums for sums, tried in zip(self._sums, self._tried, strict=True) if tried]
        pairs = [((odd, way), (odd, odd), (way, way)) for odd, way in tried]
        dots = np.array([[np.vdot(*pair).real for pair in each] for each in pairs])
        rows = [row for row in (dots.sum(0), *dots) if np.isfinite(row).all() and row[1] > 0]
        return [float(dot / np.sqrt(odd * way)) for dot, odd, way in rows]


def _tried(tx: optax.GradientTransformationExtraArgs, trial: _Trial) -> list[float]:
    """The cosines after one call where that is enough, else after all."""

    def first(delta: Tree, params: Tree, extras: dict[str, Any]) -> Any:
        return tx.update(delta, tx.init(params), params, **extras)

    def later(state: Any, delta: Tree, params: Tree, extras: dict[str, Any]) -> Any:
        return tx.update(delta, state, params, **extras)

    call: Callable[..., Any] = jax.jit(first)
    given: list[tuple[Any, ...]] = [(), ()]
    for number in range(CALLS):
        deltas = trial.deltas()
        made = [
            call(*state, delta, trial.params, trial.extras)
            for state, delta in zip(given, deltas, strict=True)
        ]
        trial.add(deltas[0], made[0][0], made[1][0])
        if number == 0:
            if min(trial.cosines(), default=0.0) > PLAIN:
                break
            call = jax.jit(later)
        given = [(state,) for _, state in made]
    return trial.cosines()


def _chosen(trained: list[bool], leaves: list[Any]) -> list[bool]:
    """Which leaves to try: of many one of each kind, and then the first."""
    able = [number for number, flag in enumerate(trained) if flag and leaves[number].size]
    kinds = {(len(leaves[n].shape), leaves[n].dtype): n for n in reversed(able)}
    picked = set([*kinds.values(), *(n for n in able if n not in kinds.values())][:LEAVES])
    return [number in picked for number in range(len(leaves))]


def on_host() -> contextlib.AbstractContextManager[Any]:
    """To compute on the host, where it is there."""
    try:
        return jax.default_device(Placement.host().device)
    except RuntimeError:
        return contextlib.nullcontext()
