"""Random deltas, what the server tells a transform about them, and trees compared."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp.server.transforms import supposed
from jax_ssp.trees import Tree

MERGES = 12
NUM_WORKERS = 4
ROUNDING = {"float32": 1e-6, "bfloat16": 1e-2, "float16": 1e-3, "int32": 0, "float64": 1e-12}


def like(tree: Tree, rng: np.random.Generator, scale: float = 1.0) -> Tree:
    """Random numbers of the shapes and dtypes of a tree."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), tree
    )


def single() -> dict[str, Any]:
    """A tree of float32 alone, as much of optax wants under strict promotion."""
    return {"w": jnp.zeros((3, 2)), "b": jnp.zeros(())}


def mixed() -> dict[str, Any]:
    """One with a half-precision leaf too."""
    return {**single(), "h": jnp.zeros(5, jnp.bfloat16)}


def extras(staleness: Any, base: Tree) -> dict[str, Any]:
    """What the server passes, and something that a later version of it may pass."""
    told = supposed(staleness=staleness, lag=1, worker=2, num_workers=NUM_WORKERS)
    return {**told, "stale_params": base, "moon": jnp.float32(0.3)}


def merges(zeros: Tree, seed: int = 0, length: int = MERGES) -> SimpleNamespace:
    """Stacked over merges: a delta, parameters, the delta's base, and its staleness."""
    rng = np.random.default_rng(seed)
    stacked = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), zeros)
    params = like(stacked, rng)
    near = like(stacked, rng, 0.1)
    return SimpleNamespace(
        delta=like(stacked, rng, 0.3),
        params=params,
        base=jax.tree.map(lambda p, n: (p + n).astype(p.dtype), params, near),
        staleness=jnp.asarray(rng.integers(0, 30, length), jnp.int32),
    )


def each(stacked: SimpleNamespace) -> Iterator[dict[str, Any]]:
    """One merge after the other."""
    for t in range(len(stacked.staleness)):
        yield jax.tree.map(lambda leaf: leaf[t], vars(stacked))  # noqa: B023


def update(
    transform: optax.GradientTransformationExtraArgs, state: Any, merge: dict[str, Any]
) -> tuple[Any, Any]:
    """Apply a transform to one of `each`."""
    about = extras(merge["staleness"], merge["base"])
    return transform.update(merge["delta"], state, merge["params"], **about)


def run(
    transform: optax.GradientTransformationExtraArgs, stacked: SimpleNamespace, jit: bool = True
) -> tuple[list[Any], Any]:
    """What it gives for one merge after the other, and its last state."""
    given: list[Any] = []
    state: Any = None
    one: Any = functools.partial(update, transform)
    one = jax.jit(one) if jit else one
    for merge in each(stacked):
        state = transform.init(merge["params"]) if state is None else state
        applied, state = one(state, merge)
        given.append(applied)
    return given, state


def scanned(
    transform: optax.GradientTransformationExtraArgs, stacked: SimpleNamespace
) -> tuple[list[Any], Any]:
    """What it gives for one merge after the other, in a scan; and its last state."""

    def body(state: Any, merge: dict[str, Any]) -> tuple[Any, Any]:
        applied, state = update(transform, state, merge)
        return state, applied

    first = next(each(stacked))
    state, given = jax.lax.scan(body, transform.init(first["params"]), vars(stacked))
    length = len(stacked.staleness)
    return [jax.tree.map(lambda leaf: leaf[t], given) for t in range(length)], state  # noqa: B023


def assert_close(tree: Tree, expected: Tree, rtol: float | None = None) -> None:
    """The same structure, shapes and dtypes, and numbers up to rounding."""
    _alike(tree, expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        tolerance = ROUNDING[leaf.dtype.name] if rtol is None else rtol
        leaf, other = (np.asarray(number, np.float64) for number in (leaf, other))
        np.testing.assert_allclose(leaf, other, rtol=tolerance, atol=tolerance * 1e-1)


def assert_same(tree: Tree, expected: Tree) -> None:
    """The same to the last bit."""
    _alike(tree, expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other))


def _alike(tree: Tree, expected: Tree) -> None:
    """The same structure, shapes and dtypes."""
    here, there = (
        (
            jax.tree.structure(each),
            [(leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(each)],
        )
        for each in (tree, expected)
    )
    if here != there:
        raise AssertionError(f"structure, shapes or dtypes differ: {here} is not {there}")


def layout(tree: Tree) -> tuple[Any, list[Any]]:
    """Structure, shapes, dtypes and weak types: what a compiled program depends on."""
    leaves = [jax.typeof(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    return jax.tree.structure(tree), leaves
