"""What a merge computes: `params + server_tx(sum of weight * delta_tx(delta))`.

This is the mathematics, pure and traceable; `programs.py` says what it is compiled to, and the
server (`server.py`) holds what goes in and what comes out.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp.controller.constructors import constructor
from jax_ssp.controller.weight import Weight, shares_of
from jax_ssp.layout import Delta, Layout, Moved
from jax_ssp.mitigations.as_given import AsGiven
from jax_ssp.pairs import is_complex, on_pairs
from jax_ssp.rounds import ByRounds
from jax_ssp.server import transforms
from jax_ssp.server.partition import Cut
from jax_ssp.server.uphill import OF_DELTAS, OF_GRADIENTS, check_downhill
from jax_ssp.trees import Params, as_float, weighted, widened
from jax_ssp.views import Views, seeing

State: TypeAlias = tuple[optax.OptState, optax.OptState]  # of `delta_tx`, of `server_tx`


class Some(NamedTuple):
    """Some deltas of a merge, or all: what a program takes of them.

    Attributes:
        deltas: at least one, in their order.
        factors: the weight of each; where something is averaged a row for each: weight, and share
            of its statistics.
        facts: a row for each, then one for the merge (see `transforms.table_of`); None where no
            transform is there to read them.
        bases: of each, if a transform asks for them.
        kept: whether each brings its statistics, then whether the merge does; None if that is to be
            seen by who adds them.
    """

    deltas: tuple[Any, ...]
    factors: Any
    facts: Any
    bases: tuple[Params, ...] = ()
    kept: Any = None


new_some = constructor(Some)


def factors_of(weights: Sequence[float], num_workers: int, weight: Weight) -> np.ndarray:
    """A row for each delta of a merge: its weight, and the share of its statistics.

    Args:
        weights: of the deltas.
        num_workers: live workers.
        weight: the server's rule.
    """
    return as_float([weights, shares_of(weight, weights, num_workers)]).T


def factors_alone(weight: float, num_workers: int, rule: Weight) -> tuple[np.ndarray, np.ndarray]:
    """What a delta is added with that is not merged yet: its weight, and its statistics' share.

    As a merge of it alone would do it, which is how its worker reads it, and how its base is made.

    Args:
        weight: of the delta, if it were merged alone.
        num_workers: live workers.
        rule: the server's.
    """
    (share,) = shares_of(rule, [weight], num_workers)
    return as_float(weight), as_float(share)


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
        layout: as given.
        wants_base: whether a transform requires `stale_params`.
        drops: whether a transform decides over statistics.
        wants_facts: whether there is a transform.
    """

    def __init__(
        self,
        params: Params,
        server_tx: optax.GradientTransformation | None,
        delta_tx: optax.GradientTransformation | None,
        layout: Layout,
        views: Views | None = None,
    ) -> None:
        self.layout = layout
        trained = layout.user.map(operator.not_) if layout.has_averaged else None
        users = jax.eval_shape(layout.unpacked, params)  # transforms are written for these
        self._masks = layout.has_averaged and views is None

        complex_ones = any(map(is_complex, jax.tree.leaves(params)))

        def seen(name: str, tx: optax.GradientTransformation) -> Any:
            if complex_ones:  # a wrapper's `init` is compiled anew for each server
                tx = on_pairs(tx)
            if views is not None:  # in which there is nothing but what is trained
                return seeing(on_pairs(tx), views, users, f"`{name}`")
            return transforms.supported(tx, trained)

        optimizes = isinstance(server_tx, ByRounds)  # it is the step's optimizer
        called = "step.optimizer" if optimizes else "server_tx"
        given = {called: server_tx, "delta_tx": delta_tx}
        self._given = {name: seen(name, tx) for name, tx in given.items() if tx is not None}
        self._server_tx = self._given.get(called)
        self._delta_tx = self._given.get("delta_tx")
        asking = [transforms.checked(name, tx, users) for name, tx in self._given.items()]
        self.wants_base = any(asking)
        self.wants_facts = bool(self._given)
        self._dropping = {
            name
            for name, tx in self._given.items()
            if not (optimizes and name == called)  # which may be at a learning rate of 0
            and layout.has_averaged
            and not transforms.keeps_for_later(tx, users)
        }
        self.drops = bool(self._dropping)
        for name, tx in self._given.items():
            if not isinstance(given[name], AsGiven):
                facts = transforms.supposed(num_workers=2)
                says = OF_GRADIENTS if optimizes and name == called else OF_DELTAS
                check_downhill(name, tx, users, layout.user.flags, facts, self.wants_base, says)

    def init(self, params: Params) -> State:
        """The state before the first merge."""
        params = self.layout.unpacked(params)
        # Each jitted by itself: what optax's functions compile to then serves all servers.
        state = () if self._delta_tx is None else jax.jit(self._delta_tx.init)(params)
        if self._server_tx is None:
            return state, optax.EmptyState()
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
        self, params: Params, state: State, some: Some, before: Params = None
    ) -> tuple[Params, State, list[jax.Array]]:
        """The weighted sum of some of a merge's deltas, each after its transform.

        Args:
            params: the last version.
            state: what came before these left.
            some: the deltas.
            before: the sum of those before them; None for the first.

        Returns:
            The sum in at least float32, with a `Moved` for each leaf that is averaged; the new
            state; whether each delta moved anything before its transform, and after.
        """
        delta_state, server_state = state
        deltas, factors, facts, bases, kept = some
        each = () if facts is None else tuple(facts)[:-1]
        judged: list[jax.Array] = []
        total = before
        for number, delta in enumerate(deltas):
            plain = self.layout.map(lambda averaged, d: d.move if averaged else widened(d), delta)
            update = plain
            if self._delta_tx is not None:
                given = plain, delta_state, params, each[number], bases[number] if bases else None
                update, delta_state = self._updated(self._delta_tx, *given)
            stays = True if kept is None else kept[number]
            if "delta_tx" in self._dropping:
                judged.append(self._judged(plain, update))
                stays = _brings(judged[-1]) if kept is None else stays
            weighed = self._weighed(params, update, delta, factors[number], stays)
            # In the order given, so that the sum is the same from run to run.
            total = weighed if total is None else self.layout.map(_together, total, weighed)
        return total, (delta_state, server_state), judged

    def apply(
        self,
        params: Params,
        state: State,
        total: Params,
        facts: jax.Array | None,
        base: Params = None,
        kept: jax.Array | None = None,
    ) -> tuple[Params, State, list[jax.Array]]:
        """One version from the last.

        Args:
            params: the last.
            state: that the sum left.
            total: of all deltas.
            facts: of which the last row is the merge's; None where nothing reads them.
            base: of the stalest delta, if `wants_base`.
            kept: whether the merge brings statistics; None if that is to be seen here.

        Returns:
            The new version; the new state; whether the merge moved anything before, and after.
        """
        delta_state, server_state = state

        def plain(averaged: bool, leaf: Any, old: jax.Array) -> jax.Array:
            return (leaf.move if averaged else leaf).astype(old.dtype)

        summed = self.layout.map(plain, total, params)
        updates = summed
        if self._server_tx is not None:
            assert facts is not None  # where a transform is there to read them
            given = summed, server_state, params, facts[-1], base
            updates, server_state = self._updated(self._server_tx, *given)
        new, judged = optax.apply_updates(params, updates), []
        if self.layout.has_averaged:
            judged = [self._judged(summed, updates)] if "server_tx" in self._dropping else []
            stays = [_brings(each) for each in judged] if kept is None else [kept]

            def entered(averaged: bool, new: jax.Array, old: jax.Array, moved: Any) -> jax.Array:
                if not averaged:
                    return new
                value = moved.into(old)
                return jnp.where(stays[0], value, old) if stays else value

            new = self.layout.map(entered, new, params, total)
        return new, (delta_state, server_state), judged

    def _weighed(
        self, params: Params, update: Params, delta: Delta, factors: jax.Array, kept: Any
    ) -> Params:
        weight, share = factors if self.layout.has_averaged else (factors, None)

        def weigh(averaged: bool, old: jax.Array, update: jax.Array, leaf: Any) -> Any:
            if averaged:
                return Moved.by(old, leaf, share, kept)
            return weighted(update, weight)

        return self.layout.map(weigh, params, update, delta)

    def check_elementwise(self, params: Params, cut: Cut, remedy: str) -> None:
        """Raise ValueError if a transform gives pieces something else than it gives the whole."""
        for name, tx in self._given.items():
            if not transforms.is_elementwise(tx, params, cut, self.wants_base):
                raise ValueError(
                    f"`{name}` is not elementwise (it looks at more than one number at a time, "
                    "like a clipping by norm), so it cannot work on parameters split over devices; "
                    f"{remedy}."
                )

    def _updated(
        self, tx: Any, given: Params, state: Any, params: Params, row: jax.Array, base: Params
    ) -> tuple[Params, Any]:
        """What a transform makes of it, which sees parameters as their user has them."""
        seen, extras = self.layout.unpacked, transforms.facts_of(row)
        if self.wants_base:
            extras["stale_params"] = seen(base)
        update, state = tx.update(seen(given), state, seen(params), **extras)
        return self.layout.packed(update), state

    def _judged(self, before: Params, after: Params) -> jax.Array:
        """Whether any number that is trained is not 0: before a transform, and after it."""

        def moves(tree: Params) -> jax.Array:
            leaves = self.layout.trained(tree)
            return jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in leaves] or [jnp.bool(False)]))

        return jnp.stack([moves(before), moves(after)])


def _brings(judged: jax.Array) -> jax.Array:
    """Whether what was judged so was kept: it still moves something, or it moved nothing before."""
    return judged[..., 1] | ~judged[..., 0]


def _together(averaged: bool, one: Any, other: Any) -> Any:
    return one.with_other(other) if averaged else one + other
