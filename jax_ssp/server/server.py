"""The server: merged parameters, their versions, and the server's optimizer.

A merge makes one new version, `params' = params + server_tx(sum of weight * delta_tx(delta))`, in
one jitted program (see `merging.py`). Versions are immutable, so they are shared without a copy;
the server itself holds only the newest. The memory of a version that nobody holds any more becomes
that of a later one (see `snapshot.py`).

The server's own are *masters*, in at least float32, however narrow the parameters are: many small
deltas then add up (see `layout.py`).

The parameters live whole on one device (by default the host's CPU, off every accelerator's queue),
or cut into pieces over several, each merged where it lives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from jax_ssp.buckets import in_buckets
from jax_ssp.checks import function, integer, optional
from jax_ssp.compression import nbytes
from jax_ssp.controller.weight import Weight, check_weight
from jax_ssp.data.arrays import owned
from jax_ssp.fragments import Fragments, check_fragments
from jax_ssp.layout import Delta, Layout
from jax_ssp.server.arguments import (
    check_averaged,
    check_devices,
    check_merge,
    check_transforms,
    check_weights,
)
from jax_ssp.server.merging import Merging
from jax_ssp.server.positions import SliceParts
from jax_ssp.server.programs import MergePrograms
from jax_ssp.server.share import AllShares, Share, is_whole, parts_of
from jax_ssp.server.transforms import arrival
from jax_ssp.server.versions import Versions
from jax_ssp.trees import Params, check_like, check_params, is_finite, shapes_of
from jax_ssp.views import Views


class Server:
    """Holds the newest version and merges deltas into it.

    `delta_tx` is called for every delta, as it was pushed and in the order of the merge; then the
    deltas are weighted and summed, and `server_tx` is called once. Both get the extra arguments
    `staleness` (versions), `lag` (clocks), `worker`, `num_workers` and `round` (in a run as many
    samples as one synchronous step of all workers; here a merge), all int32 scalars; and
    `stale_params`, the base that the delta is measured from, if it is a required argument of their
    update. Of several deltas in one merge, `server_tx` is told about the stalest. Where merges have
    one delta each, the two differ by the weight alone. Both see masters: parameters, deltas and
    bases in at least float32.

    What is only averaged (BatchNorm statistics) is no business of the transforms. A merge of deltas
    from bases b_i to values v_i takes the statistics S to

        S' = clip(S + sum a_i (v_i - b_i), elementwise between least and greatest of S and the v_i)

    where a_i = w_i / max(1, sum w) (w_i is the delta's weight), but 1 / max(num_workers, merged
    deltas) for "sum" and numbers. A delta that is not finite, or that
    `delta_tx` drops (all that is trained comes out 0), brings none; neither does a merge that
    `server_tx` drops.

    Args:
        params: the first version, number 0; copied.
        server_tx: any optax transform; its updates are added to the parameters. The default leaves
            the deltas as they are.
        delta_tx: any optax transform.
        weight: factor of a delta: "mean" (1 / num_workers), "sum" (1), "merged" (1 / deltas in the
            merge), a number; or "samples" or "tokens", its share of those of the merge, which only
            a run knows: here `merge` is given the weights then.
        device: where merging runs; by default the first CPU device, off every accelerator's queue.
            Several devices share the parameters by bytes, each merging its own piece; the transform
            must then be elementwise. With `SliceParts`, those of workers on slices; with a `Share`,
            it has the pieces of one of several devices, and other servers have the others.
        averaged: tree of booleans like `params`, true for what is only averaged.
        fragments: shares of the parameters that are merged each with a state of the transforms of
            its own (see `ssp.Fragments`), or how many of about the same size; None for one.
        views: how the transforms, and their masks, see the parameters (see `jax_ssp.views`),
            without what is averaged; by default as they are. A step's method of that name will do.

    Raises:
        ValueError: if `weight` is not one of these, or not finite; if parameters are not floating
            point; if a transform's updates are of other shapes than they; if there are several
            devices and a transform is not elementwise.
        TypeError: if `server_tx` or `delta_tx` is not a transform.

    Attributes:
        versions: the newest version in pieces, and how the next is made.
        parts: how it is cut into pieces.
        wants_base: whether a transform requires `stale_params`.

    Example:
        >>> import jax.numpy as jnp
        >>> server = Server({"w": jnp.zeros(2)})
        >>> server.merge([{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}])
        1
        >>> server.snapshot(1)["w"].tolist()
        [0.5, 0.5]
    """

    def __init__(
        self,
        params: Params,
        server_tx: optax.GradientTransformation | None = None,
        *,
        delta_tx: optax.GradientTransformation | None = None,
        weight: Weight = "mean",
        device: jax.Device | Sequence[jax.Device] | SliceParts | Share | AllShares | None = None,
        averaged: Any = None,
        views: Views | None = None,
        fragments: Fragments | int | None = None,
    ) -> None:
        self.weight = check_weight(weight)
        check_transforms(server_tx=server_tx, delta_tx=delta_tx)
        optional("Server(views=...)", views, function, "(tree) -> trees")
        many = isinstance(device, (SliceParts, Share, AllShares))
        self._like = device.like if many else None  # a slice, where the workers are slices
        self.devices = check_devices(device.devices if many else device)
        self._shapes = check_params(params)
        check_averaged(averaged, params)
        fragments = check_fragments(fragments)
        self.layout = Layout.of(params, averaged)
        if is_whole(device) and (fragments is None or fragments.count == 1):
            self.layout = in_buckets(self.layout, self._shapes)
        self.shapes: Params = jax.eval_shape(self._laid, self._shapes)
        parts = parts_of(self.shapes, device, len(self.devices), fragments)
        merging = Merging(self.shapes, server_tx, delta_tx, self.layout, views)
        self.wants_base = merging.wants_base
        if len(self.devices) > 1:
            merging.check_elementwise(*parts.trial(), parts.remedy)
        self.parts = parts
        self._homes = self.devices * parts.num_fragments  # of the pieces
        self.versions = Versions(merging, self._first(params), self._homes, self.weight, parts)
        self._measured = jax.jit(self.layout.measured)
        self._rounded = jax.jit(self.layout.rounded)
        self._shown: tuple[int, Params] | None = None  # the newest, rounded, once it was asked for
        self._whole = self.programs(lambda params, delta: delta)

    @property
    def version(self) -> int:
        """The number of the newest version."""
        return self.versions.version

    @property
    def device(self) -> jax.Device:
        """Where merging runs; of several devices, the first."""
        return self.devices[0]

    @property
    def params(self) -> Params:
        """The newest version's parameters in their own dtypes, on the (first) device."""
        return self.snapshot()

    @property
    def masters(self) -> Params:
        """The newest version in at least float32, on the (first) device."""
        return self.layout.unpacked(self._joined(self.versions.newest.keep()))

    @property
    def states(self) -> tuple[optax.OptState, optax.OptState]:
        """Of `server_tx` and of `delta_tx`; of several pieces, tuples with one for each."""
        pairs = [self.versions.merging.own(state) for state in self.versions.states]
        deltas, server = zip(*pairs, strict=True)
        return (server[0], deltas[0]) if len(pairs) == 1 else (server, deltas)

    def snapshot(self, version: int | None = None) -> Params:
        """The parameters of a version in their own dtypes, immutable and shared.

        Args:
            version: which; by default the newest, which is the only one the server holds.

        Raises:
            ValueError: if it holds another version.
        """
        version = optional("snapshot(version=...)", version, integer, least=0)
        if version is not None and version != self.version:
            raise ValueError(
                f"`snapshot(version=...)`: version {version} is not held, only the newest, "
                f"{self.version}. Keep a reference to each snapshot you need later."
            )
        if not self.layout.has_half:
            return self.masters
        if self._shown is None or self._shown[0] != self.version:
            pieces = list(map(self._rounded, self.versions.newest.pieces))
            self._shown = self.version, self.layout.unpacked(self._joined(pieces))
        return self._shown[1]

    def merge(
        self,
        deltas: Sequence[Params],
        *,
        staleness: int | Sequence[int] = 0,
        lag: int | Sequence[int] = 0,
        worker: int | Sequence[int] = 0,
        num_workers: int | None = None,
        stale_params: Sequence[Params] | None = None,
        weights: Sequence[float] | None = None,
    ) -> int:
        """Apply deltas, in this order, as one new version.

        Args:
            deltas: at least one, each with the structure and the shapes of the parameters.
            staleness, lag, worker: for the transforms: one for each delta, or one for all of them.
            num_workers: how many the "mean" is over; by default as many as there are deltas.
            stale_params: the base of each delta; needed where a transform asks for it. What is
                averaged is measured from there too; without, from the newest version.
            weights: the factor of each delta; by default the server's `weight` says it.

        Returns:
            The number of the new version.

        Raises:
            TypeError: if a leaf of a delta is no array, or one of the numbers is not whole.
            ValueError: if there are no deltas, or not as many of the others; if one differs from
                the parameters in structure or shape.
        """
        facts = {"staleness": staleness, "lag": lag, "worker": worker}
        given = check_merge(deltas, facts, num_workers, stale_params, self.wants_base)
        for name, trees in (("deltas", given.deltas), ("stale_params", given.bases)):
            for index, tree in enumerate(trees):
                shapes = shapes_of(f"{name}[{index}]", tree)
                like = f"{name}[{index}]", shapes, "params", self._shapes
                check_like("the merge's", *like, any_float=True)
        deltas, bases = (
            [self._laid(jax.device_put(owned(tree), self.device)) for tree in trees]
            for trees in (given.deltas, given.bases)
        )
        if self.layout.has_averaged:
            newest = self._joined(self.versions.newest.keep())
            deltas = list(map(self._measured, deltas, bases or [newest] * len(deltas)))
        deltas, bases = (list(map(self._cut, trees)) for trees in (deltas, bases))
        weighed = check_weights(weights, self.weight, given.num_workers, len(deltas))
        more = given.num_workers, self.version  # a merge is a round, as far as is known
        arrivals = [
            arrival(*each, weight, *more) for each, weight in zip(given.facts, weighed, strict=True)
        ]
        return self.versions.apply_whole(self._whole, deltas, arrivals, bases)

    def programs(self, opened: Callable[[Params, Any], Delta]) -> MergePrograms:
        """The merge of deltas in another form; `opened` gives (piece, delta as it comes) -> delta.

        Pure, for each piece.
        """
        largest = max(map(nbytes, self.versions.newest.pieces))
        return MergePrograms(self.versions.merging, opened, largest)

    def program(self) -> str:
        """The merge of one delta as compiler text: the same text, the same server."""
        example = list(map(self.layout.delta_like, self.versions.newest.pieces))
        return self.versions.text(self._whole, example)

    def finite(self) -> bool:
        """Whether every number of the newest version is finite."""
        return all(map(is_finite, self.versions.newest.pieces))

    def _first(self, params: Params) -> list[Params]:
        """The pieces of version 0. What is sharded is never whole on a device, but on the host."""
        if self._like is None:
            params = jax.device_put(owned(params), self.devices[0], may_alias=False)
            return self._cut(self._laid(params))
        pieces = [
            jax.device_put(piece, device, may_alias=False)
            for piece, device in zip(self.parts.apart(params), self._homes, strict=True)
        ]
        return list(map(self.layout.masters, pieces))

    def _laid(self, params: Params) -> Params:
        """Parameters as masters, as they lie between programs."""
        # As masters first: together with others, numbers of another dtype would be rounded to it.
        return self.layout.packed(self.layout.user.masters(params))

    def _cut(self, tree: Params) -> list[Params]:
        """A tree on the (first) device as pieces, each on its own."""
        return list(map(jax.device_put, self.parts.apart(tree), self._homes))

    def _joined(self, pieces: list[Params]) -> Params:
        """The tree of pieces; of what is sharded, on the slice that the parts are like."""
        return self.parts.together(pieces, self.device if self._like is None else self._like)
