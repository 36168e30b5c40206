"""How deltas and snapshots travel: cut into pieces for the server's devices, and compressed.

A delta is cut, each piece compressed with error feedback, and sent to its device; a snapshot comes
back the same way and is joined again. With one piece and no compressor both travel as they are.
Both are in the masters' dtypes. What is averaged (`Statistic`s) is never compressed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_ssp.compression import Compressor, compress, nbytes, residual_of
from jax_ssp.layout import Delta, Layout, Statistic
from jax_ssp.placement import Placement
from jax_ssp.trees import Params, all_finite

Message: TypeAlias = Any  # a piece, or what a compressor makes of it


class _Range(NamedTuple):
    """Where a piece cuts a leaf: along one axis, from `start` up to `stop`."""

    axis: int
    start: int
    stop: int


class Cut:
    """Cuts a tree into pieces of about the same number of bytes.

    Each piece has the structure of the tree. Of each leaf it holds a range along one axis, the
    whole of it, or nothing (an array of size 0). A leaf is cut between rows, never within one; a
    scalar stays whole.

    Args:
        params: the tree, for its structure, shapes and dtypes.
        num_pieces: at least 1.

    Example:
        >>> cut = Cut({"a": jnp.zeros(6), "b": jnp.zeros((2, 1))}, num_pieces=2)
        >>> pieces = cut.split({"a": jnp.arange(6.0), "b": jnp.ones((2, 1))})
        >>> [piece["a"].tolist() for piece in pieces], [piece["b"].shape for piece in pieces]
        ([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0]], [(0, 1), (2, 1)])
    """

    def __init__(self, params: Params, num_pieces: int = 1) -> None:
        leaves, self._structure = jax.tree.flatten(params)
        sizes = list(map(nbytes, leaves))
        share = sum(sizes) / num_pieces
        self.num_pieces = num_pieces
        self._ranges: list[list[_Range]] = [[] for _ in range(num_pieces)]
        before = 0
        for leaf, size in zip(leaves, sizes, strict=True):
            axis = _axis(leaf.shape, num_pieces)
            rows = leaf.shape[axis] if leaf.shape else 1
            ends = [
                min(max(round(rows * (share * number - before) / max(size, 1)), 0), rows)
                for number in range(num_pieces)
            ]
            for piece, start, stop in zip(self._ranges, ends, [*ends[1:], rows], strict=True):
                piece.append(_Range(axis, start, stop))
            before += size

    def split(self, tree: Delta) -> list[Delta]:
        """The pieces of a tree, which may have several arrays where it has a leaf; pure."""
        if self.num_pieces == 1:
            return [tree]
        leaves = self._structure.flatten_up_to(tree)

        def part(leaf: Any, piece: _Range) -> Any:
            return jax.tree.map(lambda array: _part(array, piece), leaf)

        return [self._structure.unflatten(map(part, leaves, ranges)) for ranges in self._ranges]

    def join(self, pieces: Sequence[Delta]) -> Delta:
        """The tree of the pieces; pure."""
        if self.num_pieces == 1:
            return pieces[0]
        leaves = zip(*map(self._structure.flatten_up_to, pieces), strict=True)

        def joined(parts: Sequence[Any], ranges: Sequence[_Range]) -> Any:
            return jax.tree.map(lambda *arrays: _joined(arrays, ranges), *parts)

        return self._structure.unflatten(map(joined, leaves, zip(*self._ranges, strict=True)))


def _axis(shape: tuple[int, ...], num_pieces: int) -> int:
    """The axis to cut along: the first one, whose parts are contiguous, if it is long enough."""
    if not shape or shape[0] >= num_pieces:
        return 0
    return max(range(len(shape)), key=shape.__getitem__)


def _part(leaf: Any, piece: _Range) -> Any:
    axis, start, stop = piece
    if not leaf.shape:  # a scalar; where it is not, there is an empty vector in its place
        return leaf if stop > start else jnp.zeros((0,), leaf.dtype)
    return leaf[(slice(None),) * axis + (slice(start, stop),)]


def _joined(parts: Sequence[Any], ranges: Sequence[_Range]) -> Any:
    filled = [part for part, piece in zip(parts, ranges, strict=True) if piece.stop > piece.start]
    if len(filled) == 1:
        return filled[0]
    return jnp.concatenate(filled or list(parts), ranges[0].axis)


OF_THE_WIRE = 2**32 - 1  # in the place of a clock, which steps have, so that keys differ


class Wire:
    """What workers and server do to deltas and snapshots that travel between them.

    Args:
        params: masters, for their structure, shapes and dtypes.
        layout: of them.
        num_pieces: one for each device of the server.
        deltas: compressor of deltas; each worker keeps the error of its own and sends it with the
            next delta.
        snapshots: compressor of snapshots; the server keeps the error of a version and adds it to
            the next one that is sent, so that what workers read is right in the mean.
    """

    def __init__(
        self,
        params: Params,
        layout: Layout,
        num_pieces: int = 1,
        deltas: Compressor | None = None,
        snapshots: Compressor | None = None,
    ) -> None:
        if snapshots is not None and snapshots.random:
            raise ValueError(
                f"`snapshot_wire={snapshots!r}` draws random numbers, for which only workers have "
                "keys; use it as `delta_wire`."
            )
        self._layout = layout
        self.deltas = deltas
        self.snapshots = snapshots
        self.cut = Cut(params, num_pieces)
        self.shapes: list[Params] = jax.eval_shape(self.cut.split, params)
        kept = self.shapes if deltas is not None else []
        self._residuals = [jax.eval_shape(self.nothing_lost, piece) for piece in kept]
        self.packs = num_pieces > 1 or deltas is not None
        self.unpacks = num_pieces > 1 or snapshots is not None
        self.pack = jax.jit(self._pack, donate_argnums=1)
        self.unpack = jax.jit(self._unpack)
        self.split = self.cut.split if num_pieces == 1 else jax.jit(self.cut.split)

    # On the worker.

    def residual(self) -> list[Any]:
        """What a worker has not sent yet, for each piece: nothing, before its first delta."""
        return jax.tree.map(lambda each: np.zeros(each.shape, each.dtype), self._residuals)

    def _pack(
        self, delta: Params, residual: list[Any], key: jax.Array | None = None, clock: Any = 0
    ) -> tuple[list[Message], Params, list[Any]]:
        """A delta as it travels, what the server will read if that differs, the error to keep.

        `key` is the worker's; of it a random compressor gets one for each clock and piece.
        """
        pieces = self.cut.split(delta)
        if self.deltas is None:
            return pieces, None, residual
        apart = list(map(self._layout.apart, pieces))
        keys: list[Any] = [None] * len(apart)
        if self.deltas.random:
            assert key is not None
            key = jax.random.fold_in(jax.random.fold_in(key, OF_THE_WIRE), clock)
            keys = [jax.random.fold_in(key, number) for number in range(len(apart))]
        packed = [
            compress(self.deltas, trained, rest, drawn)
            for (trained, _), rest, drawn in zip(apart, residual, keys, strict=True)
        ]
        messages, sent, residual = map(list, zip(*packed, strict=True))
        statistics = [each for _, each in apart]
        if self._layout.has_averaged:  # of a clock that the wire spoils there are none
            statistics = _valued(statistics, all_finite(sent))
            messages = list(zip(messages, statistics, strict=True))
        whole = map(self._layout.together, sent, statistics)
        return messages, self.cut.join(list(whole)), residual

    def _unpack(self, messages: Sequence[Message]) -> Params:
        """The snapshot that these messages hold."""
        if self.snapshots is not None:
            messages = [
                self._decoded(self.snapshots, message, shapes)
                for message, shapes in zip(messages, self.shapes, strict=True)
            ]
        return self.cut.join(messages)

    # On the server, for each piece.

    def opened(self, message: Message, piece: Params) -> Delta:
        """The delta of a piece that a message holds; `piece` gives shapes and dtypes."""
        return message if self.deltas is None else self._decoded(self.deltas, message, piece)

    def published(self, piece: Params, residual: Any) -> tuple[Message, Any]:
        """A piece of a snapshot as it travels, and the error to keep."""
        assert self.snapshots is not None
        trained, statistics = self._layout.apart(piece)
        message, _, residual = compress(self.snapshots, trained, residual)
        return (message, statistics) if self._layout.has_averaged else message, residual

    def example(self, piece: Params) -> Message:
        """A delta of a piece as it travels, any of these shapes."""
        delta = self._layout.delta_like(piece)
        if self.deltas is None:
            return delta
        trained, statistics = self._layout.apart(delta)
        drawn = (jax.random.key(0),) if self.deltas.random else ()
        message = self.deltas.encode(trained, *drawn)
        return (message, statistics) if self._layout.has_averaged else message

    def nothing_lost(self, piece: Params) -> Any:
        """The residual of a piece before anything was compressed."""
        return residual_of(self._layout.apart(piece)[0])

    def _decoded(self, compressor: Compressor, message: Message, like: Params) -> Any:
        message, statistics = message if self._layout.has_averaged else (message, [])
        trained = compressor.decode(message, self._layout.apart(like)[0])
        return self._layout.together(trained, statistics)


def _valued(pieces: list[list[Statistic]], good: jax.Array) -> list[list[Statistic]]:
    """The statistics of a delta, without a value unless it is good."""
    return [
        [each._replace(value=jnp.where(good, each.value, jnp.nan)) for each in piece]
        for piece in pieces
    ]


class Memory:
    """Arrays that nobody needs any more, for results to be put where they were.

    Fresh memory is slow to get on the CPU backend: each 4 kB cost a page fault, which for a large
    array takes several times as long as to fill it. So a program that makes a tree takes over
    (donates) an old one; what XLA finds to be in use still it leaves alone, and allocates after
    all. Small arrays are left out: there malloc does the same at less cost. Accelerators keep a
    pool of their own, so nothing is kept there.

    Args:
        like: a tree of the shapes to come.
        device: where.
    """

    LARGE = 1 << 18  # bytes; malloc gives memory back to the system from some 128 kB up

    def __init__(self, like: Any, device: jax.Device) -> None:
        self._device = device
        reuses = Placement.of(device).on_host
        self._shapes = jax.eval_shape(self._large, like) if reuses else []
        self._free: deque[list[jax.Array]] = deque(maxlen=2)

    def _large(self, tree: Any) -> list[Any]:
        return [leaf for leaf in jax.tree.leaves(tree) if nbytes(leaf) >= self.LARGE]

    @property
    def reuses(self) -> bool:
        """Whether anything is kept here."""
        return bool(self._shapes)

    def give(self, tree: Any) -> None:
        """Nobody will use this tree again."""
        if self.reuses:
            self._free.append(self._large(tree))

    def take(self) -> list[jax.Array]:
        """Arrays for a program to take over; new ones if there are none."""
        if not self.reuses:
            return []
        try:
            return self._free.popleft()
        except IndexError:
            zeros = [np.zeros(shape.shape, shape.dtype) for shape in self._shapes]
            return jax.device_put(zeros, self._device, may_alias=False)
