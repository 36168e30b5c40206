"""The compiled merge: few programs, whatever numbers of deltas come together."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.layout import Delta
from jax_ssp.server.merging import Merging, Some, State
from jax_ssp.server.undivided import compiler_options
from jax_ssp.trees import Params

MOST_AT_ONCE = 32  # deltas that one program merges

_FREE = 2 + len(Some._fields) + 1  # where `MergePrograms._merged` is given free memory


class _Jitted(NamedTuple):
    """The programs for pieces at one place."""

    add: Any
    merge: Any
    judge: Any


class MergePrograms:
    """The compiled merge: one program up to `MOST_AT_ONCE` deltas, and beyond that a sum by parts.

    So whatever numbers of deltas come together in a run, few programs are compiled, and none of
    them is long.

    Args:
        merging: what is computed.
        opened: (parameters, delta as it comes) -> the delta.
        nbytes: of the largest piece.
    """

    def __init__(
        self, merging: Merging, opened: Callable[[Params, Any], Delta], nbytes: int
    ) -> None:
        self._merging = merging
        self._opened = opened
        self._nbytes = nbytes
        self._there = lru_cache(self._jitted)

    def merge(
        self,
        device: jax.Device,
        params: Params,
        state: State,
        deltas: Some,
        free: list[jax.Array],
    ) -> tuple[Params, State]:
        """One version from the last.

        Args:
            device: where it is.
            params: the last.
            state: of the transforms; taken over.
            deltas: all of the merge.
            free: memory that is overwritten.
        """
        there, before = self._there(device), None
        base = _of_the_stalest(deltas)
        while len(deltas.deltas) > MOST_AT_ONCE:
            part, deltas = _cut_off(deltas)
            before, state = there.add(params, state, part, before)
        return there.merge(params, state, *deltas, before, free, base)

    def judge(self, device: jax.Device, params: Params, state: State, deltas: Some) -> jax.Array:
        """Whether each delta, and then the merge, moved anything before its transform and after."""
        judge = self._there(device).judge
        return judge(params, state, deltas, _of_the_stalest(deltas))

    def text(self, device: jax.Device, params: Params, state: State, deltas: Some) -> str:
        """What such a merge of few deltas compiles from."""
        given = params, state, *deltas, None, [], _of_the_stalest(deltas)
        return self._there(device).merge.lower(*given).as_text()

    def _jitted(self, device: jax.Device) -> _Jitted:
        """The programs for pieces on a device.

        A delta comes as arrays of JAX or of NumPy, depending on where its worker is. Where inputs
        are is said here, so that one program serves them all, in whatever order they come.
        """
        place = jax.sharding.SingleDeviceSharding(device)
        options = compiler_options(place, self._nbytes)
        there = partial(jax.jit, in_shardings=place, compiler_options=options)
        return _Jitted(
            there(self._added, donate_argnums=(1, 3)),
            there(self._merged, donate_argnums=(1, _FREE), keep_unused=True),
            there(self._judged),
        )

    def _added(
        self, params: Params, state: State, deltas: Some, before: Params
    ) -> tuple[Params, State]:
        return self._merging.add(params, state, self._open(params, deltas), before)[:2]

    def _merged(self, params: Params, state: State, *others: Any) -> tuple[Params, State]:
        """One version from the last.

        Args:
            params: the last.
            state: that the deltas before these left; taken over.
            others: the fields of `Some`, the sum of the deltas before these, free memory, and the
                stalest delta's base. Flat, since a tree within costs time at each call.
        """
        *some, before, _, base = others  # where memory is free, the new version is written
        deltas = Some(*some)
        total, state = self._added(params, state, deltas, before)
        last = None if deltas.kept is None else deltas.kept[-1]
        return self._merging.apply(params, state, total, deltas.facts, base, last)[:2]

    def _judged(self, params: Params, state: State, deltas: Some, base: Params) -> jax.Array:
        total, state, each = self._merging.add(params, state, self._open(params, deltas))
        _, _, last = self._merging.apply(params, state, total, deltas.facts, base)
        moved = jnp.ones(2, bool)
        each = each or [moved] * len(deltas.deltas)
        return jnp.stack([*each, *(last or [moved])])

    def _open(self, params: Params, deltas: Some) -> Some:
        opened = tuple(self._opened(params, delta) for delta in deltas.deltas)
        return deltas._replace(deltas=opened)


def _of_the_stalest(deltas: Some) -> Params:
    """Its base, if bases are asked for; its facts are the last row."""
    if not deltas.bases:
        return None
    *each, stalest = deltas.facts.tolist()
    return deltas.bases[each.index(stalest)]


def _cut_off(deltas: Some) -> tuple[Some, Some]:
    """The first of some deltas, and the others; both with the facts of the merge as the last."""
    first, facts, kept = MOST_AT_ONCE, deltas.facts, deltas.kept
    factors = np.asarray(deltas.factors)  # of which JAX would cut off a part by a program
    part = Some(
        deltas.deltas[:first],
        factors[:first],
        None if facts is None else np.concatenate([facts[:first], facts[-1:]]),
        deltas.bases[:first],
        None if kept is None else kept[:first],
    )
    others = Some(
        deltas.deltas[first:],
        factors[first:],
        None if facts is None else facts[first:],
        deltas.bases[first:],
        None if kept is None else kept[first:],
    )
    return part, others
