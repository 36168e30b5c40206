"""Whether a transform of the server is one: for ours, and for one of your own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp import checks
from jax_ssp.checks import flag, instance
from jax_ssp.server.server import Server
from jax_ssp.testing import deltas
from jax_ssp.testing.require import hold, require
from jax_ssp.trees import all_finite

Transform: TypeAlias = optax.GradientTransformationExtraArgs

MOST_STALE = 2**31 - 1


def check_mitigation(
    transform: optax.GradientTransformation,
    *,
    corrects: bool = False,
    keeps_out: bool = False,
    seed: int = 0,
) -> None:
    """Check that an optax transform can stand on the server, as `delta_tx` or `server_tx`.

    It keeps structure, shapes and dtypes, of half precision too; its state is arrays of its own,
    which no call beside the state changes; jitted and scanned it gives what it gives by itself, and
    one program serves every staleness; it takes what the server tells it and more, and asks for
    `stale_params` in the way that the server looks for; it goes with others, and where the deltas
    go; and whatever is empty, scalar or very stale, it gives numbers.

    Args:
        transform: any optax transform, such as `my_mitigation(rate=0.5)`.
        corrects: whether it only mends what staleness spoils, so that a delta of staleness 0, from
            the present parameters, passes as it is. Of an optimizer that is not so.
        keeps_out: whether a delta with a number that is not finite leaves no trace in its state.
            Else wrap it, `ssp.mitigations.skip_nonfinite(transform)`, where such deltas may come.
        seed: of the deltas that it is tried with.

    Raises:
        AssertionError: if it is none; it says what must hold, and how to see it again.
        TypeError, ValueError: if what is given is no transform, or the others are no such values.

    Example:
        >>> import jax_ssp as ssp
        >>> check_mitigation(ssp.mitigations.scale_by_staleness(), corrects=True)
        >>> try:
        ...     check_mitigation(optax.scale(-0.1))
        ... except AssertionError as error:
        ...     print(str(error)[:64])
        A server takes it. But ValueError: `server_tx` goes uphill: what
    """
    must = "an optax transform, such as `my_mitigation()`"
    instance("check_mitigation(transform=...)", transform, optax.GradientTransformation, must)
    corrects = flag("check_mitigation(corrects=...)", corrects)
    keeps_out = flag("check_mitigation(keeps_out=...)", keeps_out)
    seed = checks.seed("check_mitigation(seed=...)", seed)
    extra = optax.with_extra_args_support(transform)
    more = [*([is_untouched_when_fresh] if corrects else ()), *([recovers] if keeps_out else ())]
    for check in (*MITIGATION_CHECKS, *more):
        hold(check, extra, seed)


def keeps_the_layout(transform: Transform, seed: int) -> None:
    """Structure, shapes and dtypes are kept, those of the state from call to call."""
    stacked = deltas.merges(deltas.mixed(), seed, length=3)
    state = transform.init(deltas.mixed())
    for merge in deltas.each(stacked):
        before = deltas.layout(state)
        applied, state = deltas.update(transform, state, merge)
        given, wanted = deltas.layout(applied), deltas.layout(merge["delta"])
        require(given == wanted, "a delta comes out with another layout", given, wanted)
        after = deltas.layout(state)
        require(after == before, "the state has another layout after a call", before, after)


def owns_its_state(transform: Transform, seed: int) -> None:
    """Its state is arrays of its own, which the server may donate; its parameters are left."""
    update = jax.jit(functools.partial(deltas.update, transform), donate_argnums=0)
    merge = next(deltas.each(deltas.merges(deltas.single(), seed)))
    first, _ = update(transform.init(merge["params"]), merge)
    again, _ = update(transform.init(merge["params"]), merge)
    deltas.assert_same(again, first)


def is_pure(transform: Transform, seed: int) -> None:
    """The same deltas give the same again: what it remembers is in its state alone."""
    stacked = deltas.merges(deltas.mixed(), seed, length=4)
    given, state = deltas.run(transform, stacked, jit=False)
    again, other = deltas.run(transform, stacked, jit=False)
    for one, same in zip([*given, state], [*again, other], strict=True):
        deltas.assert_same(same, one)


def is_jitted_and_scanned(transform: Transform, seed: int) -> None:
    """Jitted and scanned it gives what it gives by itself."""
    stacked = deltas.merges(deltas.mixed(), seed, length=8)
    given, state = deltas.run(transform, stacked, jit=False)
    for other, its_state in (
        deltas.run(transform, stacked),
        deltas.scanned(transform, stacked),
    ):
        for one, same in zip(given, other, strict=True):
            deltas.assert_close(same, one)
        here, there = deltas.layout(its_state), deltas.layout(state)
        require(here == there, "the state has another layout", here, there)


def is_one_program(transform: Transform, seed: int) -> None:
    """One compilation serves every staleness."""
    traced = 0

    def counted(state: Any, merge: Any) -> Any:
        nonlocal traced
        traced += 1
        return deltas.update(transform, state, merge)

    update = jax.jit(counted)
    stacked = deltas.merges(deltas.mixed(), seed, length=3)
    state = transform.init(deltas.mixed())
    for staleness, merge in enumerate([*deltas.each(stacked)] * 2):
        _, state = update(state, {**merge, "staleness": np.int32(staleness)})
    require(traced == 1, "it was traced so many times", traced)


def goes_with_others(transform: Transform, seed: int) -> None:
    """Chained between others it gives what it gives alone."""
    stacked = deltas.merges(deltas.single(), seed)
    clip, trace = optax.clip(0.2), optax.trace(0.9)
    chained, _ = deltas.run(optax.chain(clip, transform, trace), stacked)
    stacked.delta, _ = clip.update(stacked.delta, clip.init(stacked.params))
    alone, _ = deltas.run(transform, stacked)
    traced = trace.init(deltas.single())
    for given, expected in zip(chained, alone, strict=True):
        expected, traced = trace.update(expected, traced)
        deltas.assert_close(given, expected)


def leaves_a_part_out(transform: Transform, seed: int) -> None:
    """A part of the parameters can be left out, as statistics are that are not trained."""
    mask = {"w": True, "b": False, "h": True}
    masked: Any = optax.masked(transform, mask, mask_compatible_extra_args=True)
    whole, part = (deltas.merges(deltas.mixed(), seed) for _ in range(2))
    for tree in (part.delta, part.params, part.base):
        del tree["b"]
    given, _ = deltas.run(masked, whole)
    expected, _ = deltas.run(transform, part)
    for merge, one, other in zip(deltas.each(whole), given, expected, strict=True):
        deltas.assert_same(one.pop("b"), merge["delta"]["b"])
        deltas.assert_close(one, other)


def asks_for_its_base(transform: Transform, seed: int) -> None:
    """It needs no `stale_params`, or has it as a keyword-only argument without a default."""
    (merge,) = deltas.each(deltas.merges(deltas.single(), seed, length=1))
    about = deltas.extras(merge["staleness"], merge["base"])
    del about["stale_params"]
    state = jax.eval_shape(transform.init, merge["params"])
    try:
        jax.eval_shape(
            lambda state: transform.update(merge["delta"], state, merge["params"], **about), state
        )
    except TypeError as error:
        if "required keyword-only argument: 'stale_params'" not in str(error):
            raise


def is_taken_by_a_server(transform: Transform, seed: int) -> None:
    """A server takes it."""
    (merge,) = deltas.each(deltas.merges(deltas.single(), seed, length=1))
    server = Server(merge["params"], transform, weight="sum")
    base = [merge["base"]] if server.wants_base else None
    server.merge([merge["delta"]], staleness=3, stale_params=base)
    require(bool(all_finite(server.params)), "after a merge the server's parameters are not finite")


EXTREMES: dict[str, Any] = {
    "scalars, empty": lambda: {
        "a": jnp.float32(0.5),
        "b": jnp.zeros((0, 3)),
        "c": jnp.ones((1, 1)),
    },
    "nothing but empty": lambda: {"a": jnp.zeros(0)},
    "half": lambda: {"h": jnp.full(70000, 0.5, jnp.bfloat16), "w": jnp.ones(2)},
    "no leaves": dict,
}


def gives_numbers(transform: Transform, seed: int) -> None:
    """Every shape of tree and every staleness gives finite numbers."""
    for name in EXTREMES:
        gives_numbers_of(transform, EXTREMES[name]())


def gives_numbers_of(transform: Transform, tree: Any) -> None:
    """Whatever the staleness of a delta like this, it gives finite numbers."""
    base = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.25, leaf.dtype), tree)
    state = transform.init(tree)
    for staleness in (0, 1, 5, MOST_STALE):
        about = deltas.extras(jnp.int32(staleness), base)
        applied, state = transform.update(tree, state, tree, **about)
        here, there = deltas.layout(applied), deltas.layout(tree)
        require(here == there, "a delta comes out with another layout", here, there)
        finite = bool(all_finite(applied))
        require(finite, f"what it gives at staleness {staleness} is not finite", applied)
        spoilt = any(bool(jnp.isnan(leaf).any()) for leaf in jax.tree.leaves(state))
        require(not spoilt, f"after staleness {staleness} there are NaNs in the state", state)


def is_untouched_when_fresh(transform: Transform, seed: int) -> None:
    """A delta that is not stale passes as it is: there is nothing to correct."""
    (merge,) = deltas.each(deltas.merges(deltas.mixed(), seed, length=1))
    fresh = {**merge, "base": merge["params"], "staleness": jnp.int32(0)}
    applied, _ = deltas.update(transform, transform.init(merge["params"]), fresh)
    deltas.assert_same(applied, merge["delta"])


def recovers(transform: Transform, seed: int) -> None:
    """A delta that is not finite spoils nothing that comes after it."""
    for bad in (np.nan, np.inf):
        state = clean = transform.init(deltas.single())
        for number, merge in enumerate(deltas.each(deltas.merges(deltas.single(), seed))):
            if number == 5:
                spoilt = {**merge, "delta": {**merge["delta"], "b": jnp.float32(bad)}}
                _, state = deltas.update(transform, state, spoilt)
            applied, state = deltas.update(transform, state, merge)
            expected, clean = deltas.update(transform, clean, merge)
            finite = bool(all_finite(applied))
            require(finite, f"after a delta with {bad} what it gives is not finite", applied)
            deltas.assert_close(applied["b"], expected["b"])


MITIGATION_CHECKS: tuple[Callable[[Transform, int], None], ...] = (
    keeps_the_layout,
    is_pure,
    is_jitted_and_scanned,
    owns_its_state,
    is_one_program,
    goes_with_others,
    leaves_a_part_out,
    asks_for_its_base,
    gives_numbers,
    is_taken_by_a_server,
)
