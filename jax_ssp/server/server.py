"""The server: merged parameters, their versions, and the server's optimizer.

A merge makes one new version, `params' = params + server_tx(sum of weight * delta_tx(delta))`, in
in one jitted program (see `merging.py`). Versions are immutable, so they are shared without a copy;
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
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp.checks import flag, function, instance, integer, optional, several, shown
from jax_ssp.controller.weight import Weight, check_weight, shares_of, weight_of
from jax_ssp.data.feed import owned
from jax_ssp.layout import Delta, Layout
from jax_ssp.placement import Placement
from jax_ssp.server.memory import Memory
from jax_ssp.server.merging import About, MergePrograms, Merging, numbers_of
from jax_ssp.server.partition import Cut
from jax_ssp.server.snapshot import Message, Snapshot
from jax_ssp.trees import Params, check_like, check_params, shapes_of
from jax_ssp.views import Views


class Server:
    """Holds the newest version and merges deltas into it.

    `delta_tx` is called for every delta, as it was pushed and in the order of the merge; then the
    deltas are weighted and summed, and `server_tx` is called once. Both get the extra arguments
    `staleness` (versions), `lag` (clocks), `worker` and `num_workers`, all int32 scalars; and
    `stale_params`, the base that the delta is measured from, if it is a required argument of their
    update. Of several deltas in one merge, `server_tx` is told about the stalest. Where merges have
    one delta each, the two differ by the weight alone. Both see masters: parameters, deltas and
    bases in at least float32.

    What is only averaged (BatchNorm statistics) is no business of the transforms. A merge of deltas
    from bases b_i to values v_i takes the statistics S to

        S' = clip(S + sum a_i (v_i - b_i), elementwise between least and greatest of S and the v_i)

    where a_i = w_i / max(1, sum w) for "mean" and "merged" (w_i is the delta's weight), and
    1 / max(num_workers, merged deltas) for "sum" and numbers. A delta that is not finite, or that
    `delta_tx` drops (all that is trained comes out 0), brings none; neither does a merge that
    `server_tx` drops.

    Args:
        params: the first version, number 0; copied.
        server_tx: any optax transform; its updates are added to the parameters. The default leaves
            the deltas as they are.
        delta_tx: any optax transform.
        weight: factor of a delta: "mean" (1 / num_workers), "sum" (1), "merged" (1 / deltas in the
            merge), or a number.
        device: where merging runs; by default the first CPU device, off every accelerator's queue.
            Several devices share the parameters by bytes, each merging its own piece; the transform
            must then be elementwise.
        averaged: tree of booleans like `params`, true for what is only averaged.
        views: how the transforms, and their masks, see the parameters (see `jax_ssp.views`),
            without what is averaged; by default as they are. A step's method of that name will do.

    Raises:
        ValueError: if `weight` is not one of these, or not finite; if parameters are not floating
            point; if a transform's updates are of other shapes than they; if there are several
            devices and a transform is not elementwise.
        TypeError: if `server_tx` or `delta_tx` is not a transform.

    Attributes:
        version: the number of the newest version.
        newest: that version as a snapshot; whoever needs it longer than the next merge holds it.
        wants_base: whether a transform requires `stale_params`.

    Example:
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
        device: jax.Device | Sequence[jax.Device] | None = None,
        averaged: Any = None,
        views: Views | None = None,
    ) -> None:
        self.weight = check_weight(weight)
        for name, tx in (("server_tx", server_tx), ("delta_tx", delta_tx)):
            must = "an optax transform such as `optax.sgd(0.7)`"
            optional(name, tx, instance, optax.GradientTransformation, must)
        optional("Server(views=...)", views, function, "(tree) -> trees")
        self.devices = _devices(device)
        self.version = 0
        self._shapes = check_params(params)
        _check_averaged(averaged, params)
        self.layout = Layout.of(params, averaged)
        params = jax.device_put(owned(params), self.devices[0], may_alias=False)
        params = self.layout.masters(params)
        self.shapes: Params = jax.eval_shape(lambda tree: tree, params)
        cut = Cut(self.shapes, len(self.devices))
        self._merging = Merging(params, server_tx, delta_tx, self.layout, views)
        self.wants_base = self._merging.wants_base
        if len(self.devices) > 1:
            self._merging.check_elementwise(params, cut)
        self._split = jax.jit(cut.split)
        self._join = jax.jit(cut.join)
        pieces = self._cut(params)
        self._memory = list(map(Memory, pieces, self.devices))
        self.newest = Snapshot(0, pieces, self._memory)
        states = map(self._merging.init, pieces)
        self._states = list(map(jax.device_put, states, self.devices))
        self._measured = jax.jit(self.layout.measured)
        self._rounded = jax.jit(self.layout.rounded)
        self._shown: tuple[int, Params] | None = None  # the newest, rounded, once it was asked for
        self._whole = self.programs(lambda params, delta: delta)

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
        pieces = self.newest.keep()
        return pieces[0] if len(pieces) == 1 else self._join(jax.device_put(pieces, self.device))

    @property
    def states(self) -> tuple[optax.OptState, optax.OptState]:
        """Of `server_tx` and of `delta_tx`; of several devices, tuples with one for each."""
        pairs = [self._merging.own(state) for state in self._states]
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
            self._shown = self.version, self._rounded(self.masters)
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
    ) -> int:
        """Apply deltas, in this order, as one new version.

        Args:
            deltas: at least one, each with the structure and the shapes of the parameters.
            staleness, lag, worker: for the transforms: one for each delta, or one for all of them.
            num_workers: how many the "mean" is over; by default as many as there are deltas.
            stale_params: the base of each delta; needed where a transform asks for it. What is
                averaged is measured from there too; without, from the newest version.

        Returns:
            The number of the new version.

        Raises:
            TypeError: if a leaf of a delta is no array, or one of the numbers is not whole.
            ValueError: if there are no deltas, or not as many of the others; if one differs from
                the parameters in structure or shape.
        """
        deltas = several("merge(deltas=...)", deltas, "a list of trees like the parameters")
        if not deltas:
            raise ValueError("`merge(deltas)` needs at least one delta, got none.")
        count = len(deltas)
        if num_workers is not None:
            count = integer("merge(num_workers=...)", num_workers, least=1, most=2**31 - 1)
        told = {"staleness": staleness, "lag": lag, "worker": worker}
        each = [_whole_numbers(name, value, len(deltas)) for name, value in told.items()]
        must = "a list of the bases of the deltas"
        bases = list(optional("merge(stale_params=...)", stale_params, several, must) or ())
        if {len(deltas)} != {*map(len, each), len(bases) if self.wants_base else len(deltas)}:
            raise ValueError(
                "`merge(deltas)` needs one `staleness`, `lag`, `worker` for each delta (or for "
                "all), and where a transform asks for it one of `stale_params`, but there are "
                f"{len(deltas)} deltas, {[*map(len, each)]} of the three, {len(bases)} bases."
            )
        for name, trees in (("deltas", deltas), ("stale_params", bases)):
            for index, tree in enumerate(trees):
                self._check(f"{name}[{index}]", tree)
        deltas, bases = (
            [self.layout.masters(jax.device_put(owned(tree), self.device)) for tree in trees]
            for trees in (deltas, bases)
        )
        if self.layout.has_averaged:
            deltas = list(map(self._measured, deltas, bases or [self.masters] * len(deltas)))
        deltas, bases = (list(map(self._cut, trees)) for trees in (deltas, bases))
        weight = weight_of(self.weight, count, len(deltas))
        about = [About(*numbers, weight) for numbers in zip(*each, strict=True)]
        return self.apply(self._whole, deltas, about, count, bases)

    def _check(self, name: str, tree: Params) -> None:
        shapes = shapes_of(name, tree)
        check_like("the merge's", name, shapes, "params", self._shapes, any_float=True)

    def programs(self, opened: Callable[[Params, Any], Delta]) -> MergePrograms:
        """The merge of deltas in another form; `opened` gives (piece, delta as it comes) -> delta.

        Pure, for each piece.
        """
        return MergePrograms(self._merging, opened)

    def apply(
        self,
        programs: MergePrograms,
        deltas: Sequence[list[Message]],
        about: Sequence[About],
        num_workers: int,
        bases: Sequence[list[Params]] = (),
    ) -> int:
        """Merge deltas in the form of these programs, with the weights that `about` says.

        Args:
            programs: from `programs`.
            deltas: for each its pieces, one on each device.
            about: of each.
            num_workers: live workers.
            bases: of each its pieces, if `wants_base`.

        Returns:
            The number of the new version.
        """
        factors = self._factors([delta.weight for delta in about], num_workers)
        numbers = numbers_of(about, num_workers)
        bases = bases if self.wants_base else ()
        kept = None  # where a piece is the only one, it sees that by itself
        if len(self.devices) > 1 and self._merging.drops:
            kept = self._kept(programs, deltas, factors, numbers, bases)
        pieces: list[Params] = []
        for index, piece in enumerate(self.newest.pieces):
            messages, origins = _pieces(deltas, index), _pieces(bases, index)
            free = self._memory[index].take()
            given = (piece, self._states[index], messages, factors, numbers, free, origins, kept)
            merged = programs.merge(*given)
            pieces.append(merged[0])
            self._states[index] = merged[1]
        self.version += 1
        before, self.newest = self.newest, Snapshot(self.version, pieces, self._memory)
        before.release()
        return self.version

    def _factors(self, weights: list[float], num_workers: int) -> np.ndarray:
        """See `Merging.add`."""
        if self.layout.has_averaged:
            return factors_of(weights, num_workers, self.weight)
        return as_weight(weights)

    def _kept(
        self,
        programs: MergePrograms,
        deltas: Sequence[list[Message]],
        factors: np.ndarray,
        numbers: np.ndarray,
        bases: Sequence[list[Params]],
    ) -> np.ndarray:
        """Which deltas of a merge, and whether the merge, may bring statistics: in all pieces."""
        judged = [
            programs.judge(
                *(piece, self._states[index], _pieces(deltas, index)),
                *(factors, numbers, _pieces(bases, index)),
            )
            for index, piece in enumerate(self.newest.pieces)
        ]
        before, after = np.any(list(map(np.asarray, judged)), axis=0).T
        return after | ~before

    def compile(
        self, num_deltas: int, programs: MergePrograms | None = None, example: Any = None
    ) -> None:
        """Compile a merge of so many deltas by running it once; nothing is kept of it.

        Args:
            num_deltas: how many.
            programs: for which form of deltas; by default trees like the parameters.
            example: the pieces of such a delta, any of these shapes, on the server's devices.
        """
        programs, example = self._form(programs, example)
        for piece, state, message, memory in zip(
            self.newest.pieces, self._states, example, self._memory, strict=True
        ):
            state = jax.tree.map(jnp.copy, state)  # the merge takes its state over
            arguments = self._arguments(piece, message, num_deltas, memory.take())
            version, _ = jax.block_until_ready(programs.merge(piece, state, *arguments))
            memory.give(version)

    def program(self, programs: MergePrograms | None = None, example: Any = None) -> str:
        """The merge of one delta as compiler text: the same text, the same server."""
        programs, example = self._form(programs, example)
        return "\n".join(
            programs.text(piece, state, *self._arguments(piece, message, 1, []))
            for piece, state, message in zip(self.newest.pieces, self._states, example, strict=True)
        )

    def _form(self, programs: MergePrograms | None, example: Any) -> tuple[MergePrograms, Any]:
        if programs is None:
            return self._whole, list(map(self.layout.delta_like, self.newest.pieces))
        return programs, example

    def _arguments(self, piece: Params, message: Message, count: int, free: list[Any]) -> Any:
        """What a merge of so many takes after parameters and state: any of these shapes."""
        bases = (piece,) * count if self.wants_base else ()
        numbers = numbers_of([About()] * count, 1)
        factors = self._factors([0.0] * count, 1)
        several = len(self.devices) > 1 and self._merging.drops
        kept = np.ones(count + 1, bool) if several else None
        return (message,) * count, factors, numbers, free, bases, kept

    def _cut(self, tree: Params) -> list[Params]:
        """A tree on the (first) device as pieces, each on its own."""
        pieces = [tree] if len(self.devices) == 1 else self._split(tree)
        return list(map(jax.device_put, pieces, self.devices))


def _check_averaged(averaged: Any, params: Params) -> None:
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


def _devices(device: Any) -> tuple[jax.Device, ...]:
    """One device or several, by default the host's."""
    if device is None:
        return (Placement.host().device,)
    must = "a JAX device, such as `jax.devices()[0]`, or a list of them"
    alone = isinstance(device, jax.Device)
    devices = (device,) if alone else several("Server(device=...)", device, must)
    if not devices:
        raise ValueError("`Server(device=...)` must name at least one device, got none.")
    return tuple(instance("Server(device=...)", each, jax.Device, must) for each in devices)


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


def _pieces(trees: Sequence[list[Any]], index: int) -> tuple[Any, ...]:
    """Of each tree the piece of that number."""
    return tuple([tree[index] for tree in trees])


def factors_of(weights: Sequence[float], num_workers: int, weight: Weight) -> np.ndarray:
    """A row for each delta of a merge: its weight, and the share of its statistics.

    Args:
        weights: of the deltas.
        num_workers: live workers.
        weight: the server's.
    """
    return as_weight([weights, shares_of(weight, weights, num_workers)]).T


def as_weight(factor: Any) -> np.ndarray:
    """A delta's factor, or several, in the widest float that JAX is set to."""
    return np.asarray(factor, jax.dtypes.canonicalize_dtype(np.float64))
