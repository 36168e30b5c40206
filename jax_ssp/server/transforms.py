"""What an optax transform is on the server: what it is told of a delta, and whether it can be used.

Every transform gets the facts of the delta as extra arguments, by name; of several deltas in one
merge, `server_tx` gets those of the stalest. To tell transforms a new fact, add a row to `FACTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp.controller.commands import Merged
from jax_ssp.controller.constructors import constructor
from jax_ssp.controller.events import DeltaReady, Token
from jax_ssp.mitigations.correlation import pooled
from jax_ssp.pairs import is_complex
from jax_ssp.server.partition import Cut
from jax_ssp.trees import Params, check_like


class Arrival(NamedTuple):
    """A delta in a merge, with all that is known of it.

    Attributes:
        merged: what the controller says: base, staleness, lag, weight and so on.
        push: what was reported with it: steps, samples, whether it is finite, its norm.
        metrics: of its clock: means over its steps.
        num_workers: live workers at the merge (see `Merge`).
        round: of the version that the merge is applied to.
    """

    merged: Merged
    push: DeltaReady
    metrics: Mapping[str, float]
    num_workers: int
    round: int


new_arrival = constructor(Arrival)


def arrival(
    staleness: int = 0,
    lag: int = 0,
    worker: int = 0,
    weight: float = 0.0,
    num_workers: int = 1,
    round: int = 0,
) -> Arrival:
    """A delta that no run has made, of which nothing else is known.

    Example:
        >>> arrival(lag=2).merged.lag
        2
    """
    token = Token(0, 0)
    push = DeltaReady(worker, 0, 0, token)
    merged = Merged(worker, 0, 0, staleness, lag, weight, token)
    return Arrival(merged, push, {}, num_workers, round)


class NeedsLoss(TypeError):
    """A transform wants what workers alone have."""


class Fact(NamedTuple):
    """Something that transforms are told.

    Attributes:
        read: gives it for a delta.
        kind: int32 or float32; a whole number beyond int32 is told as the largest.
    """

    read: Callable[[Arrival], float]
    kind: Any = np.int32


FACTS: dict[str, Fact] = {
    "staleness": Fact(lambda delta: delta.merged.staleness),
    "lag": Fact(lambda delta: delta.merged.lag),
    "worker": Fact(lambda delta: delta.merged.worker),
    "num_workers": Fact(lambda delta: delta.num_workers),
    "round": Fact(lambda delta: delta.round),
}
"""What transforms are told, and how it is read off a delta. A row more is an argument more."""

LARGEST = 2**31 - 1


def table_of(deltas: Sequence[Arrival]) -> np.ndarray:
    """A row of facts for each delta of a merge, then one for the stalest of them.

    All are int32, the floats among them by their bits: one array, since every argument of a program
    takes its time.
    """
    facts = FACTS.values()
    rows: list[list[int]] = []
    for delta in deltas:
        row: list[int] = []
        for read, kind in facts:
            value = read(delta)
            # Nearly all are such integers, of which `_bits` makes the same at twice the cost.
            plain = kind is np.int32 and type(value) is int and 0 <= value <= LARGEST
            row.append(value if plain else _bits(kind, value))
        rows.append(row)
    stalest = rows[0]
    if len(rows) > 1:
        staleness = [delta.merged.staleness for delta in deltas]
        stalest = rows[staleness.index(max(staleness))]
    return np.array([*rows, stalest], np.int32)


def _bits(kind: Any, value: float) -> int:
    if kind is np.int32:
        if type(value) is int and -LARGEST <= value <= LARGEST:
            return value
        return max(-LARGEST, min(int(value), LARGEST))
    return int(np.asarray(value, np.float32).view(np.int32))


def facts_of(row: jax.Array) -> dict[str, jax.Array]:
    """The facts of a row, by name, each a scalar; pure."""
    return {
        name: number if fact.kind is np.int32 else jax.lax.bitcast_convert_type(number, fact.kind)
        for (name, fact), number in zip(FACTS.items(), row, strict=True)
    }


def supposed(**facts: Any) -> dict[str, jax.Array]:
    """Facts to try a transform with: 0 where nothing is said, and one worker.

    Example:
        >>> supposed(lag=2)["lag"].item(), supposed()["num_workers"].item()
        (2, 1)
    """
    facts = {"num_workers": 1, **facts}
    return {name: jnp.asarray(facts.get(name, 0), fact.kind) for name, fact in FACTS.items()}


def supported(
    tx: optax.GradientTransformation, trained: Any
) -> optax.GradientTransformationExtraArgs:
    """A transform that takes extra arguments, and leaves alone what is not trained."""
    if trained is not None:
        tx = optax.masked(tx, trained, mask_compatible_extra_args=True)  # `stale_params` too
    return optax.with_extra_args_support(tx)


def keeps_for_later(tx: optax.GradientTransformation, params: Params) -> bool:
    """Whether a transform of optax is known to give 0 while it waits for more deltas."""
    kinds = (optax.MultiStepsState, optax.ApplyEvery)
    state = jax.eval_shape(tx.init, params)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    return any(isinstance(node, kinds) for node in nodes)


_OF_A_LOSS = ("value", "grad", "value_fn", "obj_fn", "grad_fn")  # what optax's transforms ask for


def checked(name: str, tx: optax.GradientTransformationExtraArgs, params: Params) -> bool:
    """Check a transform by shapes alone: does its update require `stale_params`?"""

    def update(params: Params, **more: Params) -> Params:
        return tx.update(params, tx.init(params), params, **supposed(), **more)[0]

    def tried(**more: Params) -> Params | Exception:
        try:
            return jax.eval_shape(update, params, **more)
        except Exception as error:  # whatever the transform makes of these parameters
            return error

    updates = tried()
    asks = isinstance(updates, Exception) and "stale_params" in str(updates)
    if asks:
        updates = tried(stale_params=params)
    said = str(updates)
    if isinstance(updates, Exception):
        asked = [arg for arg in _OF_A_LOSS if f"'{arg}'" in said or f"{arg} must be" in said]
        if asked:
            raise NeedsLoss(
                f"`{name}` needs {', '.join(f'`{arg}`' for arg in asked)}, but the server has no "
                "loss: workers have. Make it (part of) the optimizer of the step, "
                "`ssp.make_step(loss_fn, optimizer)`."
            ) from updates
        if isinstance(updates, ValueError):
            raise updates
        raise TypeError(
            f"`{name}` cannot be called with what the server gives it ({', '.join(FACTS)}, "
            f"stale_params): {updates}"
        ) from updates
    check_like(f"`{name}`'s", "updates", updates, "params", params, any_float=True)
    return asks


def is_elementwise(
    tx: optax.GradientTransformationExtraArgs, params: Params, cut: Cut, wants_base: bool
) -> bool:
    """Whether a transform gives each piece what it gives it in the whole; tried, not proved."""

    def updated(
        update: Params, state: Any, params: Params, base: Params, staleness: int
    ) -> tuple[Params, Any]:
        # Where a schedule begins, or ends, at 0, nothing could be told from.
        told = {"staleness": staleness, "lag": staleness, "round": 10**staleness}
        extras = supposed(num_workers=2, **told)
        stale = {"stale_params": base} if wants_base else {}
        return tx.update(update, state, params, **extras, **stale)

    def both(params: Params, updates: list[Params]) -> list[tuple[Params, Params]]:
        pieces = cut.split(params)
        state, states = tx.init(params), list(map(tx.init, pieces))
        pairs: list[tuple[Params, Params]] = []
        for staleness, update in enumerate(updates):
            base = jax.tree.map(lambda p, u: p - u / 2, params, update)
            whole, state = updated(update, state, params, base, staleness)
            parts: list[Params] = []
            for number, part in enumerate(zip(cut.split(update), cut.split(base), strict=True)):
                delta, origin = part
                part, states[number] = updated(
                    delta, states[number], pieces[number], origin, staleness
                )
                parts.append(part)
            states = pooled(states)
            pairs.append((whole, cut.join(parts)))
        return pairs

    # Updates from small to large, so that what clips does; then one with a NaN in it.
    rng = np.random.default_rng(0)

    def noise(like: jax.Array, size: float) -> np.ndarray:
        turned = rng.normal(size=like.shape) * (np.exp(1j) if is_complex(like) else 1)
        return (size * turned).astype(like.dtype)

    updates = [
        jax.tree.map(lambda p: noise(p, size), params)  # noqa: B023
        for size in (1e-2, 1.0, 1e2, 1.0)
    ]
    next(leaf for leaf in jax.tree.leaves(updates[-1]) if leaf.size).flat[0] = np.nan
    values = jax.tree.map(lambda p: noise(p, 1.0), params)
    return all(
        _close(one, other)
        for whole, parts in jax.jit(both)(values, updates)
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True)
    )


def _close(one: Any, other: Any) -> bool:
    one, other = (np.asarray(each) for each in (one, other))
    wide = np.complex128 if is_complex(one) else np.float64
    one, other = one.astype(wide), other.astype(wide)
    largest = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    return np.allclose(one, other, rtol=1e-2, atol=1e-6 * largest, equal_nan=True)
