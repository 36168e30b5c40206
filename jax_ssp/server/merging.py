"""What a merge computes: `params + server_tx(sum of weight * delta_tx(delta))`.

`Merging` is the mathematics, pure and traceable; `MergePrograms` what it is compiled to. The server
(`server.py`) holds what goes in and what comes out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp.layout import Delta, Layout, Moved
from jax_ssp.mitigations.as_given import AsGiven
from jax_ssp.pairs import is_complex, on_pairs
from jax_ssp.server.partition import Cut
from jax_ssp.server.uphill import check_downhill
from jax_ssp.trees import Params, check_like, weighted, widened
from jax_ssp.views import Views, seeing

MOST_AT_ONCE = 32  # deltas that one program merges

State: TypeAlias = tuple[optax.OptState, optax.OptState]  # of `delta_tx`, of `server_tx`


class About(NamedTuple):
    """What there is to know of a delta that is merged.

    Attributes:
        staleness: versions merged since its base.
        lag: of its worker (clocks).
        worker: who pushed it.
        weight: its factor, which transforms are not told.
    """

    staleness: int = 0
    lag: int = 0
    worker: int = 0
    weight: float = 1.0


def numbers_of(about: Sequence[About], num_workers: int) -> np.ndarray:
    """A row for each delta, then one for the stalest: staleness, lag, worker, num_workers; int32.

    One array, since every argument of a program takes its time.
    """
    stalest = max(about, key=operator.itemgetter(0)) if len(about) > 1 else about[0]
    return np.array([(*each[:3], num_workers) for each in (*about, stalest)], np.int32)


class Merging:
    """Two transforms around a weighted sum; statistics beside it, by the rule of `layout.py`.

    A delta that `delta_tx` drops, or a merge that `server_tx` drops (all that is trained comes out
    0), brings no statistics; unless the transform is known to keep it for a later merge.

    Args:
        params: masters, for their structure, shapes and dtypes.
        server_tx: called once a merge; None for the identity.
        delta_tx: called once a delta, in their order; None for the identity.
        layout: of the parameters.
        views: see `Server`.

    Raises:
        TypeError: if a transform asks for something that the server does not have.
        ValueError: if its updates differ from the parameters in structure or shape, or it goes
            uphill.

    Attributes:
        wants_base: whether a transform requires `stale_params`.
        drops: whether a transform decides over statistics.
    """

    def __init__(
        self,
        params: Params,
        server_tx: optax.GradientTransformation | None,
        delta_tx: optax.GradientTransformation | None,
        layout: Layout,
        views: Views | None = None,
    ) -> None:
        self._layout = layout
        trained = layout.map(operator.not_) if layout.has_averaged else None
        self._masks = layout.has_averaged and views is None

        complex_ones = any(map(is_complex, jax.tree.leaves(params)))

        def supported(name: str, tx: optax.GradientTransformation) -> Any:
            if complex_ones:  # a wrapper's `init` is compiled anew for each server
                tx = on_pairs(tx)
            if views is not None:  # in which there is nothing but what is trained
                return seeing(on_pairs(tx), views, params, f"`{name}`")
            return _supported(tx, trained)

        self._server_tx = supported("server_tx", server_tx or optax.identity())
        self._delta_tx = None if delta_tx is None else supported("delta_tx", delta_tx)
        self._named = {"server_tx": self._server_tx}
        if self._delta_tx is not None:
            self._named["delta_tx"] = self._delta_tx
        asking = [_checked(name, tx, params) for name, tx in self._named.items()]
        self.wants_base = any(asking)
        given = {"server_tx": server_tx, "delta_tx": delta_tx}
        self._dropping = {
            name
            for name, tx in self._named.items()
            if given[name] is not None and layout.has_averaged and not _keeps_for_later(tx, params)
        }
        self.drops = bool(self._dropping)
        for name, tx in self._named.items():
            if given[name] is not None and not isinstance(given[name], AsGiven):
                told = _extras(0, 0, 0, 2)
                check_downhill(name, tx, params, layout.flags, told, self.wants_base)

    def init(self, params: Params) -> State:
        """The state before the first merge."""
        # Each jitted by itself: what optax's functions compile to then serves all servers.
        state = () if self._delta_tx is None else jax.jit(self._delta_tx.init)(params)
        return state, jax.jit(self._server_tx.init)(params)

    def own(self, state: State) -> State:
        """The transforms' own states, out of what masks what is not trained."""
        masked = [self._masks and isinstance(each, optax.MaskedState) for each in state]
        deltas, server = (
            each.inner_state if wrapped else each
            for each, wrapped in zip(state, masked, strict=True)
        )
        return deltas, server

    def add(
        self,
        params: Params,
        state: State,
        deltas: tuple[Delta, ...],
        factors: jax.Array,
        numbers: jax.Array,
        bases: tuple[Params, ...] = (),
        before: Params = None,
        kept: jax.Array | None = None,
    ) -> tuple[Params, State, list[jax.Array]]:
        """The weighted sum of some of a merge's deltas, each after its transform.

        Args:
            params: the last version.
            state: what came before these left.
            deltas: at least one.
            factors: the weight of each delta; where something is averaged a row for each: weight,
                and share of its statistics.
            numbers: see `numbers_of`.
            bases: of each delta, if `wants_base`.
            before: the sum of those before them; None for the first.
            kept: whether each brings its statistics; None if that is to be seen here.

        Returns:
            The sum in at least float32, with a `Moved` for each leaf that is averaged; the new
            state; whether each delta moved anything before its transform, and after.
        """
        delta_state, server_state = state
        *each, _ = numbers
        judged: list[jax.Array] = []
        total = before
        for number, delta in enumerate(deltas):
            plain = self._layout.map(lambda averaged, d: d.move if averaged else widened(d), delta)
            update = plain
            if self._delta_tx is not None:
                extras = self._extras(each[number], bases[number] if bases else None)
                update, delta_state = self._delta_tx.update(plain, delta_state, params, **extras)
            stays = True if kept is None else kept[number]
            if "delta_tx" in self._dropping:
                judged.append(self._judged(plain, update))
                stays = _brings(judged[-1]) if kept is None else stays
            weighed = self._weighed(params, update, delta, factors[number], stays)
            # In the order given, so that the sum is the same from run to run.
            total = weighed if total is None else self._layout.map(_together, total, weighed)
        return total, (delta_state, server_state), judged

    def apply(
        self,
        params: Params,
        state: State,
        total: Params,
        numbers: jax.Array,
        base: Params = None,
        kept: jax.Array | None = None,
    ) -> tuple[Params, State, list[jax.Array]]:
        """One version from the last.

        Args:
            params: the last.
            state: that the sum left.
            total: of all deltas.
            numbers: see `numbers_of`.
            base: of the stalest delta, if `wants_base`.
            kept: whether the merge brings statistics; None if that is to be seen here.

        Returns:
            The new version; the new state; whether the merge moved anything before, and after.
        """
        delta_state, server_state = state
        extras = self._extras(numbers[-1], base)

        def plain(averaged: bool, leaf: Any, old: jax.Array) -> jax.Array:
            return (leaf.move if averaged else leaf).astype(old.dtype)

        summed = self._layout.map(plain, total, params)
        updates, server_state = self._server_tx.update(summed, server_state, params, **extras)
        new, judged = optax.apply_updates(params, updates), []
        if self._layout.has_averaged:
            judged = [self._judged(summed, updates)] if "server_tx" in self._dropping else []
            stays = [_brings(each) for each in judged] if kept is None else [kept]

            def entered(averaged: bool, new: jax.Array, old: jax.Array, moved: Any) -> jax.Array:
                if not averaged:
                    return new
                value = moved.into(old)
                return jnp.where(stays[0], value, old) if stays else value

            new = self._layout.map(entered, new, params, total)
        return new, (delta_state, server_state), judged

    def _weighed(
        self, params: Params, update: Params, delta: Delta, factors: jax.Array, kept: Any
    ) -> Params:
        weight, share = factors if self._layout.has_averaged else (factors, None)

        def weigh(averaged: bool, old: jax.Array, update: jax.Array, leaf: Any) -> Any:
            if averaged:
                return Moved.by(old, leaf, share, kept)
            return weighted(update, weight)

        return self._layout.map(weigh, params, update, delta)

    def check_elementwise(self, params: Params, cut: Cut) -> None:
        """Raise ValueError if a transform gives pieces something else than it gives the whole."""
        for name, tx in self._named.items():
            if not _is_elementwise(tx, params, cut, self.wants_base):
                raise ValueError(
                    f"`{name}` is not elementwise (it looks at more than one number at a time, "
                    "like a clipping by norm), so it cannot work on parameters split over devices; "
                    'merge them on one: `placement="host"`, or one device.'
                )

    def _extras(self, numbers: jax.Array, base: Params) -> dict[str, Any]:
        return {**_extras(*numbers), **({"stale_params": base} if self.wants_base else {})}

    def _judged(self, before: Params, after: Params) -> jax.Array:
        """Whether any number that is trained is not 0: before a transform, and after it."""

        def moves(tree: Params) -> jax.Array:
            leaves = self._layout.trained(tree)
            return jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in leaves] or [jnp.bool(False)]))

        return jnp.stack([moves(before), moves(after)])


def _brings(judged: jax.Array) -> jax.Array:
    """Whether what was judged so was not dropped: it moves something, or has never done so."""
    return judged[..., 1] | ~judged[..., 0]


def _together(averaged: bool, one: Any, other: Any) -> Any:
    return one.with_other(other) if averaged else one + other


def _keeps_for_later(tx: optax.GradientTransformation, params: Params) -> bool:
    """Whether a transform gives 0 where it only waits for more: known ones of optax."""
    kinds = (optax.MultiStepsState, optax.ApplyEvery)
    state = jax.eval_shape(tx.init, params)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    return any(isinstance(node, kinds) for node in nodes)


class MergePrograms:
    """The compiled merge: one program up to `MOST_AT_ONCE` deltas, and beyond that a sum by parts.

    So whatever numbers of deltas come together in a run, few programs are compiled, and none of
    them is long.

    Args:
        merging: what is computed.
        opened: (parameters, delta as it comes) -> the delta.
    """

    def __init__(self, merging: Merging, opened: Callable[[Params, Any], Delta]) -> None:
        self._merging = merging
        self._opened = opened
        self._add = jax.jit(self._added, donate_argnums=(1, 6))
        self._merge = jax.jit(self._merged, donate_argnums=(1, 7), keep_unused=True)
        self._judge = jax.jit(self._judged)

    def merge(self, *arguments: Any) -> tuple[Params, State]:
        """One version from the last; `_last` names the arguments."""
        return self._merge(*self._last(*arguments))

    def judge(self, *arguments: Any) -> jax.Array:
        """Of each delta of a merge, and of the merge: did it move anything, and does it still?

        For one piece of the parameters: (params, state, deltas, factors, numbers, bases).
        """
        *_, numbers, bases = arguments
        return self._judge(*arguments, _of_the_stalest(numbers, bases))

    def text(self, *arguments: Any) -> str:
        """What such a merge of few deltas compiles from."""
        return self._merge.lower(*self._last(*arguments)).as_text()

    def _last(
        self,
        params: Params,
        state: State,
        deltas: tuple[Any, ...],
        factors: np.ndarray,
        numbers: np.ndarray,
        free: list[jax.Array],
        bases: tuple[Params, ...],
        kept: np.ndarray | None = None,
    ) -> tuple[Any, ...]:
        """What the last program is given, once the parts before it are summed.

        See `Merging` for the arguments; `free` is overwritten; `kept` has a row for each delta and
        one for the merge.
        """
        base = _of_the_stalest(numbers, bases)
        before, each = None, [deltas, factors, numbers, bases, kept]
        while len(each[0]) > MOST_AT_ONCE:
            part, each = zip(*map(_cut_off, each), strict=True)
            deltas, factors, rows, bases, stay = part
            rows = np.concatenate([rows, numbers[-1:]])
            before, state = self._add(params, state, deltas, factors, rows, bases, before, stay)
        deltas, factors, numbers, bases, kept = each
        return params, state, deltas, factors, numbers, bases, before, free, base, kept

    def _added(
        self, params: Params, state: State, deltas: tuple[Any, ...], *others: Any
    ) -> tuple[Params, State]:
        opened = tuple(self._opened(params, delta) for delta in deltas)
        return self._merging.add(params, state, opened, *others)[:2]

    def _merged(
        self,
        params: Params,
        state: State,
        deltas: tuple[Any, ...],
        factors: jax.Array,
        numbers: jax.Array,
        bases: tuple[Params, ...],
        before: Params,
        free: list[jax.Array],
        base: Params,
        kept: jax.Array | None,
    ) -> tuple[Params, State]:
        del free  # donated: the new version is written there
        parts = (deltas, factors, numbers, bases, before, kept)
        total, state = self._added(params, state, *parts)
        last = None if kept is None else kept[-1]
        return self._merging.apply(params, state, total, numbers, base, last)[:2]

    def _judged(
        self,
        params: Params,
        state: State,
        deltas: tuple[Any, ...],
        factors: jax.Array,
        numbers: jax.Array,
        bases: tuple[Params, ...],
        base: Params,
    ) -> jax.Array:
        opened = tuple(self._opened(params, delta) for delta in deltas)
        total, state, each = self._merging.add(params, state, opened, factors, numbers, bases)
        _, _, last = self._merging.apply(params, state, total, numbers, base)
        moved = jnp.ones(2, bool)
        each = each or [moved] * len(deltas)
        return jnp.stack([*each, *(last or [moved])])


def _of_the_stalest(numbers: np.ndarray, bases: tuple[Params, ...]) -> Params:
    return bases[int(numbers[:-1, 0].argmax())] if bases else None


def _cut_off(each: Any) -> tuple[Any, Any]:
    """What is said of the first deltas, and what of the others."""
    return (None, None) if each is None else (each[:MOST_AT_ONCE], each[MOST_AT_ONCE:])


def _supported(
    tx: optax.GradientTransformation, trained: Any
) -> optax.GradientTransformationExtraArgs:
    """A transform that takes extra arguments, and leaves alone what is not trained."""
    if trained is not None:
        tx = optax.masked(tx, trained, mask_compatible_extra_args=True)  # `stale_params` too
    return optax.with_extra_args_support(tx)


def _extras(staleness: Any, lag: Any, worker: Any, num_workers: Any) -> dict[str, Any]:
    """What a transform is told, as int32 scalars."""
    names = ("staleness", "lag", "worker", "num_workers")
    return {
        name: jnp.int32(value)
        for name, value in zip(names, (staleness, lag, worker, num_workers), strict=True)
    }


_OF_A_LOSS = ("value", "grad", "value_fn", "obj_fn", "grad_fn")  # what optax's transforms ask for


def _checked(name: str, tx: optax.GradientTransformationExtraArgs, params: Params) -> bool:
    """Check a transform by shapes alone: does its update require `stale_params`?"""

    def update(params: Params, **more: Params) -> Params:
        return tx.update(params, tx.init(params), params, **_extras(0, 0, 0, 1), **more)[0]

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
            raise TypeError(
                f"`{name}` needs {', '.join(f'`{arg}`' for arg in asked)}, but the server has no "
                "loss: workers have. Make it (part of) the optimizer of the step, "
                "`ssp.make_step(loss_fn, optimizer)`."
            ) from updates
        if isinstance(updates, ValueError):
            raise updates
        raise TypeError(
            f"`{name}` cannot be called with what the server gives it (staleness, lag, worker, "
            f"num_workers, stale_params): {updates}"
        ) from updates
    check_like(f"`{name}`'s", "updates", updates, "params", params, any_float=True)
    return asks


def _is_elementwise(
    tx: optax.GradientTransformationExtraArgs, params: Params, cut: Cut, wants_base: bool
) -> bool:
    """Whether pieces, each alone, come out as they do in the whole; tried, not proved."""

    def updated(
        update: Params, state: Any, params: Params, base: Params, staleness: int
    ) -> tuple[Params, Any]:
        extras = _extras(staleness, staleness, 0, 2)
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
    return all(
        _close(one, other)
        for whole, parts in jax.jit(both)(params, updates)
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True)
    )


def _close(one: Any, other: Any) -> bool:
    one, other = (np.asarray(each) for each in (one, other))
    wide = np.complex128 if is_complex(one) else np.float64
    one, other = one.astype(wide), other.astype(wide)
    largest = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    return np.allclose(one, other, rtol=1e-2, atol=1e-6 * largest, equal_nan=True)
