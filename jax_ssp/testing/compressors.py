"""Whether a wire format keeps its contract: for ours, and for one of your own."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp import checks
from jax_ssp.checks import instance
from jax_ssp.compression import Compressor, compress, nbytes, residual_of
from jax_ssp.runtimes.plan import describe
from jax_ssp.server.packing import pack, unpack
from jax_ssp.testing.deltas import assert_close, assert_same
from jax_ssp.testing.require import hold, require
from jax_ssp.trees import Tree

MESSAGES = 40
NEAR = 0.05  # of the largest number of a leaf: how far a snapshot's numbers may be off
GROWS = 1.5  # how much larger a residual may be in the second half of many messages


def check_compressor(compressor: Compressor, *, seed: int = 0) -> None:
    """Check that a compressor is one: a format of any tree, in which nothing is lost for good.

    What arrives has the structure, shapes and dtypes of what was sent, whatever the dtypes, and so
    has every message, by the shapes alone, so that its bytes are known before it is made; a message
    is the same after it has travelled as bytes; sender and receiver agree to the last bit; over
    many messages what arrived and what is kept add up to what was sent, and what is kept stays
    bounded; a number that is not finite arrives as one, and is forgotten. A random one is decided
    by its key. One that is good for snapshots is near, number by number; else it says so,
    `for_snapshots = False`.

    Args:
        compressor: a value of the class, such as `MyFormat(bits=4)`.
        seed: of the trees that it is tried with.

    Raises:
        AssertionError: if it is none; it says what must hold, and how to see it again.
        TypeError, ValueError: if what is given is no compressor, or no number.

    Example:
        >>> import jax_ssp as ssp
        >>> check_compressor(ssp.compression.Int8())
    """
    must = "one such as `MyFormat()`"
    compressor = instance("check_compressor(compressor=...)", compressor, Compressor, must)
    seed = checks.seed("check_compressor(seed=...)", seed)
    for check in COMPRESSOR_CHECKS:
        hold(check, compressor, seed)


def tree_of(seed: int, scale: float = 1.0) -> dict[str, Any]:
    """A tree of what there is: nested, of several dtypes, with a scalar and an empty leaf."""
    rng = np.random.default_rng(seed)
    widest = jnp.zeros((), float).dtype  # float64 where 64 bits are on

    def normal(shape: Any, dtype: Any = widest) -> jax.Array:
        return jnp.asarray((rng.normal(size=shape) * scale).astype(jnp.dtype(dtype)))

    return {
        "layer": {"kernel": normal((20, 30)), "bias": normal(300, jnp.bfloat16)},
        "other": (normal(()), None, normal((0, 3))),
        "more": [normal((1, 300), jnp.float16)],
    }


def is_declared(compressor: Compressor, seed: int) -> None:
    """It is a frozen dataclass, equal to its copies, that is made again from its fields."""
    kind: Any = type(compressor)
    require(kind.__dataclass_params__.frozen, "write `@dataclass(frozen=True)` above it")
    same = copy.deepcopy(compressor)
    require(same == compressor and hash(same) == hash(compressor), "a copy of it is not equal")
    require(describe(same) == describe(compressor), "a copy is described otherwise")
    columns = [each.name for each in dataclasses.fields(compressor) if each.init]
    again = kind(**{name: getattr(compressor, name) for name in columns})
    require(again == compressor, "made again it is another", again)


def keeps_the_layout(compressor: Compressor, seed: int) -> None:
    """What arrives has the structure, shapes and dtypes of what was sent."""
    tree = tree_of(seed)
    _, decoded, residual = _compressing(compressor)(tree, residual_of(tree), _key(seed))
    require(_layout(decoded) == _layout(tree), "it has others", _layout(decoded))
    require(_layout(residual) == _layout(residual_of(tree)), "the residual has others", residual)


def says_its_bytes(compressor: Compressor, seed: int) -> None:
    """The layout of a message depends on shapes alone, so its bytes are known before."""
    tree = tree_of(seed)
    shapes = jax.eval_shape(lambda tree: tree, tree)
    planned = jax.eval_shape(functools.partial(_encode, compressor), shapes, _key(seed))
    sent: Any = None
    for values in (tree, jax.tree.map(jnp.zeros_like, tree)):
        sent = jax.jit(functools.partial(_encode, compressor))(values, _key(seed))
        require(_layout(sent) == _layout(planned), "another layout than for the shapes", sent)
    arrays = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(sent))
    require(nbytes(planned) == arrays, "it takes other bytes", nbytes(planned), arrays)


def travels_as_bytes(compressor: Compressor, seed: int) -> None:
    """A message that has travelled as bytes is decoded to the same, and by shapes alone."""
    tree = tree_of(seed)
    message, decoded, _ = _compressing(compressor)(tree, residual_of(tree), _key(seed))
    shapes = jax.eval_shape(lambda tree: tree, tree)
    arrived = jax.tree.map(jnp.asarray, unpack(bytes(pack(message)), like=message))
    decode = jax.jit(lambda message: compressor.decode(message, like=shapes))
    assert_same(decode(arrived), decoded)


def is_pure(compressor: Compressor, seed: int) -> None:
    """The same tree (and key) gives the same; jitted or not, but for the order of sums."""
    tree = tree_of(seed)["layer"]["kernel"]
    run, residual = _compressing(compressor), residual_of(tree)
    first = run(tree, residual, _key(seed))
    assert_same(run(tree, residual, _key(seed)), first)
    _, plain, _ = compress(compressor, tree, residual, _key(seed))
    assert_close(plain, first[1], rtol=1e-5)
    if compressor.random:
        other = run(tree, residual, _key(seed + 1))
        differ = any(map(_differ, jax.tree.leaves(first[0]), jax.tree.leaves(other[0])))
        require(differ, "it says it is `random`, and another key gives the same message")


def keeps_what_it_loses(compressor: Compressor, seed: int) -> None:
    """What is kept is what was sent less what arrived, to the last bit."""
    tree = tree_of(seed)
    _, decoded, residual = _compressing(compressor)(tree, residual_of(tree), _key(seed))
    for sent, leaf, kept in zip(*map(jax.tree.leaves, (decoded, tree, residual)), strict=True):
        expected = np.asarray(leaf).astype(kept.dtype) - np.asarray(sent).astype(kept.dtype)
        np.testing.assert_array_equal(kept, expected)


def loses_nothing(compressor: Compressor, seed: int) -> None:
    """Over many messages what arrived and what is kept add up to what was sent."""
    for scale in (1.0, 1e-6):
        kept: Tree = residual_of(tree_of(seed))
        pushed, arrived = (jax.tree.map(lambda leaf: _wide(leaf) * 0, kept) for _ in range(2))
        largest = scale
        for tree, sent, after in _messages(compressor, seed, scale):
            kept, largest = after, max(largest, *map(_largest, jax.tree.leaves((sent, after))))
            pushed = jax.tree.map(lambda total, leaf: total + _wide(leaf), pushed, tree)
            arrived = jax.tree.map(lambda total, leaf: total + _wide(leaf), arrived, sent)
        for total, sent, left in zip(*map(jax.tree.leaves, (pushed, arrived, kept)), strict=True):
            rounding = 1e-12 if left.dtype == np.float64 else 1e-5
            np.testing.assert_allclose(sent + _wide(left), total, rtol=0, atol=largest * rounding)


def catches_up(compressor: Compressor, seed: int) -> None:
    """What is kept stays bounded: whatever is sent all the time arrives in the mean."""
    tree = jnp.asarray(np.random.default_rng(seed).normal(size=40).astype(np.float32))

    def body(residual: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(_key(seed), number)
        _, _, residual = compress(compressor, tree, residual, key)
        return residual, jnp.abs(residual).mean()

    _, kept = jax.lax.scan(body, residual_of(tree), jnp.arange(8 * MESSAGES))
    early, late = (float(half.mean()) for half in jnp.split(kept, 2))
    require(late <= GROWS * early, "it grows, and is on average at first and later", early, late)


def is_near(compressor: Compressor, seed: int) -> None:
    """Good for snapshots, it is near number by number; else it says `for_snapshots = False`."""
    if not compressor.for_snapshots:
        return
    require(not compressor.random, "a random format is right in the mean only")
    tree = tree_of(seed)["layer"]["kernel"]
    decoded = compressor.decode(_encode(compressor, tree, _key(seed)), tree)
    off, largest = float(jnp.abs(decoded - tree).max()), float(jnp.abs(tree).max())
    require(
        off <= NEAR * largest, f"a number is off by {off:.3g}, and the largest is {largest:.3g}"
    )


def shows_what_is_not_finite(compressor: Compressor, seed: int) -> None:
    """A number that is not finite arrives as one, and is forgotten by the next message."""
    run, good = _compressing(compressor), tree_of(seed)
    for bad in (np.nan, np.inf, -np.inf):
        broken = tree_of(seed)
        broken["layer"]["kernel"] = good["layer"]["kernel"].at[1, 7].set(bad)
        broken["more"] = [good["more"][0].at[0, 3].set(bad)]
        residual = run(good, residual_of(good), _key(seed))[2]
        _, decoded, after = run(broken, residual, _key(seed + 1))
        for sent in (decoded["layer"]["kernel"][1, 7], decoded["more"][0][0, 3]):
            seen = not np.isfinite(_wide(sent)) or compressor.random
            require(seen, f"{bad} was sent, and this number arrives", sent)
        require(_finite(after), f"after {bad} the residual is not finite", after)
        again = run(good, after, _key(seed + 2))[1]
        require(_finite(again), f"what comes after {bad} is not finite")


COMPRESSOR_CHECKS: tuple[Callable[[Compressor, int], None], ...] = (
    is_declared,
    keeps_the_layout,
    says_its_bytes,
    travels_as_bytes,
    is_pure,
    keeps_what_it_loses,
    catches_up,
    loses_nothing,
    is_near,
    shows_what_is_not_finite,
)


def _messages(compressor: Compressor, seed: int, scale: float) -> Iterator[tuple[Tree, Tree, Tree]]:
    """Trees, what arrives of each, and what is kept then."""
    run, residual = _compressing(compressor), residual_of(tree_of(seed))
    for number in range(seed, seed + MESSAGES):
        tree = tree_of(number, scale)
        _, decoded, residual = run(tree, residual, _key(number))
        yield tree, decoded, residual


@functools.cache
def _compressing(compressor: Compressor) -> Callable[[Tree, Tree, Any], Any]:
    """`compress`, jitted; the same each time, so that it is compiled once."""
    return jax.jit(functools.partial(compress, compressor))


def _encode(compressor: Compressor, tree: Tree, key: Any) -> Any:
    drawn: Any = (key,) if compressor.random else ()
    return compressor.encode(tree, *drawn)


def _key(seed: int) -> jax.Array:
    return jax.random.key(seed % 2**32)


def _wide(leaf: Any) -> np.ndarray:
    """In NumPy's float64, where sums of what is sent are as good as exact."""
    return np.asarray(leaf).astype(np.float64)


def _largest(leaf: Any) -> float:
    return float(np.abs(_wide(leaf)).max(initial=0))


def _finite(tree: Tree) -> bool:
    return all(bool(np.isfinite(_wide(leaf)).all()) for leaf in jax.tree.leaves(tree))


def _differ(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() != np.asarray(other).tobytes()


def _layout(tree: Tree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
