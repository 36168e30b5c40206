"""What a `Server` and its `merge` may be given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import optax

from jax_ssp.checks import MOST, flag, instance, integer, number, optional, several, shown
from jax_ssp.controller.weight import COUNTING, Weight, weight_of
from jax_ssp.placement import Placement
from jax_ssp.trees import Params


def check_transforms(**transforms: Any) -> None:
    """Raise TypeError if one is there that is no transform."""
    must = "an optax transform such as `ssp.outer(optax.sgd(0.7))`"
    for name, tx in transforms.items():
        optional(name, tx, instance, optax.GradientTransformation, must)


def check_averaged(averaged: Any, params: Params) -> None:
    """Raise unless it is None, or a tree of booleans like the parameters."""
    if averaged is None:
        return
    must = "a tree of True and False with the structure of `params`"
    try:
        alike = jax.tree.structure(averaged) == jax.tree.structure(params)
    except Exception:  # of a dict whose keys have no order, say
        alike = False
    if not alike:
        raise TypeError(f"`Server(averaged=...)` must be {must}, got {shown(averaged)}.")
    for path, leaf in jax.tree_util.tree_leaves_with_path(averaged):
        flag(f"Server(averaged=...){jax.tree_util.keystr(path)}", leaf)


def check_devices(device: Any) -> tuple[jax.Device, ...]:
    """One device or several, by default the host's."""
    if device is None:
        return (Placement.host().device,)
    must = "a JAX device, such as `jax.devices()[0]`, or a list of them"
    alone = isinstance(device, jax.Device)
    devices = (device,) if alone else several("Server(device=...)", device, must)
    if not devices:
        raise ValueError("`Server(device=...)` must name at least one device, got none.")
    return tuple(instance("Server(device=...)", each, jax.Device, must) for each in devices)


class Given(NamedTuple):
    """What `Server.merge` is given, checked but for the trees.

    Attributes:
        deltas, bases: trees; no bases where they were not given.
        facts: of each delta its staleness, lag and worker.
        num_workers: of the merge.
    """

    deltas: list[Params]
    bases: list[Params]
    facts: list[tuple[int, int, int]]
    num_workers: int


def check_merge(
    deltas: Any, facts: dict[str, Any], num_workers: Any, stale_params: Any, wants_base: bool
) -> Given:
    """The arguments of `Server.merge`; see there.

    Raises:
        TypeError, ValueError: naming what is wrong.
    """
    deltas = several("merge(deltas=...)", deltas, "a list of trees like the parameters")
    if not deltas:
        raise ValueError("`merge(deltas)` needs at least one delta, got none.")
    count = len(deltas)
    if num_workers is not None:
        count = integer("merge(num_workers=...)", num_workers, least=1, most=2**31 - 1)
    each = [_whole_numbers(name, value, len(deltas)) for name, value in facts.items()]
    must = "a list of the bases of the deltas"
    bases = list(optional("merge(stale_params=...)", stale_params, several, must) or ())
    if {len(deltas)} != {*map(len, each), len(bases) if wants_base else len(deltas)}:
        raise ValueError(
            "`merge(deltas)` needs one `staleness`, `lag`, `worker` for each delta (or for "
            "all), and where a transform asks for it one of `stale_params`, but there are "
            f"{len(deltas)} deltas, {[*map(len, each)]} of the three, {len(bases)} bases."
        )
    return Given(list(deltas), bases, list(zip(*each, strict=True)), count)


def check_weights(weights: Any, rule: Weight, num_workers: int, count: int) -> list[float]:
    """The factor of each delta of a merge: as given, or by the server's rule.

    Raises:
        TypeError, ValueError: if there is not one number for each; or if nothing says them.
    """
    if weights is None and rule in COUNTING:
        raise ValueError(
            f"`Server(weight={rule!r})` does not know the {rule} of a delta; give `merge` the "
            "weights, such as `weights=[0.75, 0.25]`."
        )
    if weights is None:
        return [weight_of(rule, num_workers, count)] * count
    field = "merge(weights=...)"
    each = several(field, weights, "a number for each delta")
    if len(each) != count:
        raise ValueError(
            f"`{field}` must be one number for each of {count} deltas, got {shown(weights)}."
        )
    return [
        float(number(f"{field}[{index}]", weight, least=-MOST, most=MOST))
        for index, weight in enumerate(each)
    ]


def _whole_numbers(name: str, value: Any, count: int) -> list[int]:
    """One for each delta, from one for all of them or one for each."""
    field = f"merge({name}=...)"
    must = "an integer, or one for each delta"
    if isinstance(value, Sequence) or getattr(value, "shape", ()):
        each = several(field, value, must)
        return [
            integer(f"{field}[{index}]", one, least=0, most=2**31 - 1)
            for index, one in enumerate(each)
        ]
    return [integer(field, value, least=0, most=2**31 - 1, must=must)] * count
