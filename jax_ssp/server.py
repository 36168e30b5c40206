"""The server: merged parameters, their versions, and the server's optimizer.

A merge makes one new version, `params' = params + tx(sum of weight * delta)`, in one jitted
program. Versions are immutable, so they are shared without a copy, and live as long as somebody
holds them; the server itself holds only the newest. The memory of a version that nobody holds any
more becomes that of the next one.

The parameters live whole on one device (by default the host's CPU, off every accelerator's queue),
or cut into pieces over several, each merged where it lives.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp.compression import Compressor, residual_of
from jax_ssp.steps import Params
from jax_ssp.tape import weight_of
from jax_ssp.wire import Memory, Message, Wire, transfer

Weight: TypeAlias = Literal["mean", "sum"] | float


class Snapshot:
    """A version as it travels to workers; who needs it keeps a reference to it.

    Attributes:
        version: its number.
        pieces: one for each device of the server, in the form that the wire gives them.
    """

    __slots__ = ("__weakref__", "_memory", "pieces", "version")

    def __init__(self, version: int, pieces: list[Message], memory: Sequence[Memory] = ()) -> None:
        self.version = version
        self.pieces = pieces
        self._memory = memory

    def keep(self) -> list[Message]:
        """The pieces, for somebody who may hold them longer than the snapshot."""
        self._memory = ()
        return self.pieces

    def to(self, device: jax.Device) -> list[Message]:
        """The pieces on a device, or on their way there."""
        return [transfer(piece, device) for piece in self.pieces]

    def __del__(self) -> None:
        for memory, piece in zip(self._memory, self.pieces, strict=False):
            memory.give(piece)


class Server:
    """Holds the newest version and merges deltas into it.

    The transform is called once a merge, on the weighted sum of its deltas, with the extra
    arguments `staleness` (versions), `lag` (clocks), `worker` and `num_workers`, all int32 scalars.
    Of several deltas in one merge, the first three are those of the stalest.

    Args:
        params: the first version, number 0; copied.
        server_tx: any optax transform; its updates are added to the parameters. The default leaves
            the deltas as they are.
        weight: factor of a delta: "mean" (1 / num_workers), "sum" (1), or a number.
        device: where merging runs; by default the first CPU device, off every accelerator's queue.
            Several devices share the parameters by bytes, each merging its own piece; the transform
            must then be elementwise.
        averaged: tree of booleans like `params`, true for what is not trained (BatchNorm
            statistics): its deltas always count 1 / num_workers, and the transform leaves it alone.
        delta_wire: compressor of the deltas that `merge_sent` gets.
        snapshot_wire: compressor of the snapshots that `publish` gives.

    Raises:
        ValueError: if `weight` is not one of these, or not finite; if there are several devices and
            the transform is not elementwise.
        TypeError: if `server_tx` is not a transform.

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
        weight: Weight = "mean",
        device: jax.Device | Sequence[jax.Device] | None = None,
        averaged: Any = None,
        delta_wire: Compressor | None = None,
        snapshot_wire: Compressor | None = None,
    ) -> None:
        self.weight = check_weight(weight)
        if not isinstance(server_tx, optax.GradientTransformation | None):
            raise TypeError(f"`server_tx` must be an optax transform, got {server_tx!r}.")
        device = host_device() if device is None else device
        self.devices = tuple(device) if isinstance(device, Sequence) else (device,)
        self.version = 0
        self._averaged = jax.tree.map(lambda _: False, params) if averaged is None else averaged
        tx = server_tx or optax.identity()
        if averaged is not None:
            tx = optax.masked(tx, jax.tree.map(operator.not_, averaged))
        self._tx = optax.with_extra_args_support(tx)
        params = jax.device_put(_owned(params), self.devices[0], may_alias=False)
        self.wire = Wire(params, len(self.devices), delta_wire, snapshot_wire)
        if len(self.devices) > 1:
            _check_elementwise(self._tx, params, self.wire)
        self._split = jax.jit(self.wire.cut.split)
        self._join = jax.jit(self.wire.cut.join)
        pieces = self._cut(params)
        self._memory = list(map(Memory, pieces, self.devices))
        self._newest = Snapshot(0, pieces, self._memory)
        init = jax.jit(self._tx.init)
        self._states = list(map(jax.device_put, map(init, pieces), self.devices))
        self._merge_whole = jax.jit(self._merged_whole, donate_argnums=(1, 5), keep_unused=True)
        self._merge_sent = jax.jit(self._merged_sent, donate_argnums=(1, 5), keep_unused=True)
        self._publish = jax.jit(self.wire.published, donate_argnums=1)
        self._published: Snapshot | None = None  # the newest, compressed, once it was asked for
        self._residuals = [] if snapshot_wire is None else [residual_of(p) for p in pieces]

    @property
    def device(self) -> jax.Device:
        """Where merging runs; of several devices, the first."""
        return self.devices[0]

    @property
    def params(self) -> Params:
        """The newest version's parameters, on the (first) device."""
        return self.snapshot()

    def snapshot(self, version: int | None = None) -> Params:
        """The parameters of a version, immutable and shared.

        Args:
            version: which; by default the newest, which is the only one the server holds.

        Raises:
            ValueError: if it holds another version.
        """
        if version is not None and version != self.version:
            raise ValueError(
                f"`snapshot(version=...)`: version {version} is not held, only the newest, "
                f"{self.version}. Keep a reference to each snapshot you need later."
            )
        pieces = self._newest.keep()
        return pieces[0] if len(pieces) == 1 else self._join(jax.device_put(pieces, self.device))

    def publish(self) -> Snapshot:
        """The newest version as it travels to workers; compressed once, for all who ask."""
        if self.wire.snapshots is None:
            return self._newest
        if self._published is None or self._published.version != self.version:
            both = list(map(self._publish, self._newest.pieces, self._residuals))
            messages, self._residuals = ([pair[side] for pair in both] for side in (0, 1))
            self._published = Snapshot(self.version, messages)
        return self._published

    def merge(
        self,
        deltas: Sequence[Params],
        *,
        staleness: int = 0,
        lag: int = 0,
        worker: int = 0,
        num_workers: int | None = None,
    ) -> int:
        """Apply deltas, in this order, as one new version.

        Args:
            deltas: at least one, each with the structure of the parameters.
            staleness, lag, worker: of the stalest of them, for the transform.
            num_workers: how many the "mean" is over; by default as many as there are deltas.

        Returns:
            The number of the new version.

        Raises:
            ValueError: if there are no deltas.
        """
        if not deltas:
            raise ValueError("`merge(deltas)` needs at least one delta, got none.")
        count = len(deltas) if num_workers is None else num_workers
        whole = [jax.device_put(_owned(delta), self.device) for delta in deltas]
        about = staleness, lag, worker, count
        return self._apply(self._merge_whole, list(map(self._cut, whole)), about)

    def merge_sent(
        self,
        deltas: Sequence[list[Message]],
        *,
        staleness: int,
        lag: int,
        worker: int,
        num_workers: int,
    ) -> int:
        """The same for deltas as they travel: for each its messages, one on each device."""
        return self._apply(self._merge_sent, deltas, (staleness, lag, worker, num_workers))

    def _apply(
        self, merge: Any, deltas: Sequence[list[Message]], about: tuple[int, int, int, int]
    ) -> int:
        weight = as_weight(weight_of(self.weight, about[-1]))
        numbers = np.array(about, np.int32)  # one array: each argument takes its time
        pieces: list[Params] = []
        for number, piece in enumerate(self._newest.pieces):
            messages = tuple(delta[number] for delta in deltas)
            free = self._memory[number].take()
            merged = merge(piece, self._states[number], messages, weight, numbers, free)
            pieces.append(merged[0])
            self._states[number] = merged[1]
        self.version += 1
        self._newest = Snapshot(self.version, pieces, self._memory)
        return self.version

    def compile(self, num_deltas: int) -> None:
        """Compile the merge of so many sent deltas by running it once; nothing is kept of it."""
        for piece, state, message, memory in zip(
            self._newest.pieces, self._states, self._example(), self._memory, strict=True
        ):
            state = jax.tree.map(jnp.copy, state)  # the merge takes its state over
            arguments = (message,) * num_deltas, as_weight(0.0), np.ones(4, np.int32), memory.take()
            version, _ = jax.block_until_ready(self._merge_sent(piece, state, *arguments))
            memory.give(version)
        if self.wire.snapshots is not None:
            residuals = jax.tree.map(jnp.copy, self._residuals)
            jax.block_until_ready(list(map(self._publish, self._newest.pieces, residuals)))

    def program(self) -> str:
        """The merge of one delta as compiler text: the same text, the same server."""
        return "\n".join(
            self._merge_sent.lower(
                piece, state, (message,), as_weight(0.0), np.ones(4, np.int32), []
            ).as_text()
            for piece, state, message in zip(
                self._newest.pieces, self._states, self._example(), strict=True
            )
        )

    def _example(self) -> list[Message]:
        """A delta as it travels: any of these shapes, on the server's devices."""
        messages = self._newest.pieces
        if self.wire.deltas is not None:
            messages = map(jax.jit(self.wire.deltas.encode), messages)
        return list(map(transfer, messages, self.devices))

    def _cut(self, tree: Params) -> list[Params]:
        """A tree on the (first) device as pieces, each on its own."""
        pieces = [tree] if len(self.devices) == 1 else self._split(tree)
        return list(map(jax.device_put, pieces, self.devices))

    def _merged_sent(
        self, params: Params, state: optax.OptState, messages: tuple[Message, ...], *others: Any
    ) -> tuple[Params, optax.OptState]:
        deltas = tuple(self.wire.opened(message, params) for message in messages)
        return self._merged_whole(params, state, deltas, *others)

    def _merged_whole(
        self,
        params: Params,
        state: optax.OptState,
        deltas: tuple[Params, ...],
        weight: jax.Array,
        numbers: jax.Array,
        free: list[jax.Array],
    ) -> tuple[Params, optax.OptState]:
        del free  # donated: the new version is written there
        extras = _extras(*numbers)
        share = 1.0 / extras["num_workers"].astype(weight.dtype)

        def total(averaged: bool, *leaves: jax.Array) -> jax.Array:
            # In the order given, so that the sum is the same from run to run.
            first, *others = (weighted(leaf, share if averaged else weight) for leaf in leaves)
            return sum(others, start=first).astype(leaves[0].dtype)

        updates = jax.tree.map(total, self._averaged, *deltas)
        updates, state = self._tx.update(updates, state, params, **extras)
        return optax.apply_updates(params, updates), state


def _extras(staleness: Any, lag: Any, worker: Any, num_workers: Any) -> dict[str, Any]:
    """What a transform is told, as int32 scalars."""
    names = ("staleness", "lag", "worker", "num_workers")
    return {
        name: jnp.int32(value)
        for name, value in zip(names, (staleness, lag, worker, num_workers), strict=True)
    }


def _check_elementwise(
    tx: optax.GradientTransformationExtraArgs, params: Params, wire: Wire
) -> None:
    """Raise ValueError if a transform gives pieces something else than it gives the whole."""

    def both(params: Params, updates: list[Params]) -> list[tuple[Params, Params]]:
        pieces = wire.cut.split(params)
        state, states = tx.init(params), list(map(tx.init, pieces))
        pairs: list[tuple[Params, Params]] = []
        for staleness, update in enumerate(updates):
            extras = _extras(staleness, staleness, 0, 2)
            whole, state = tx.update(update, state, params, **extras)
            parts: list[Params] = []
            for number, part in enumerate(wire.cut.split(update)):
                part, states[number] = tx.update(part, states[number], pieces[number], **extras)
                parts.append(part)
            pairs.append((whole, wire.cut.join(parts)))
        return pairs

    # Updates from small to large, so that what clips does.
    rng = np.random.default_rng(0)
    updates = [
        jax.tree.map(lambda p: (rng.normal(size=p.shape) * size).astype(p.dtype), params)  # noqa: B023
        for size in (1e-2, 1.0, 1e2)
    ]
    for whole, parts in jax.jit(both)(params, updates):
        for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            one, other = (np.asarray(each, np.float64) for each in (one, other))
            if not np.allclose(one, other, rtol=1e-2, atol=1e-6 * np.abs(one).max(initial=0.0)):
                raise ValueError(
                    "`server_tx` is not elementwise (it looks at more than one number at a time, "
                    "like a clipping by norm), so it cannot work on parameters split over devices; "
                    'merge them on one: `placement="host"`, or one device.'
                )


def _owned(tree: Params) -> Params:
    """NumPy leaves copied: JAX may compute on their memory later, whatever is in it by then."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def all_finite(tree: Any) -> bool:
    """Is every number of a version, or of a delta, finite?"""
    return all(bool(_all_finite(leaf)) for leaf in jax.tree.leaves(tree))


@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(leaf))


def as_weight(factor: float) -> np.ndarray:
    """A delta's factor in the widest float that JAX is set to."""
    return np.asarray(factor, jax.dtypes.canonicalize_dtype(np.float64))


def weighted(delta: jax.Array, weight: jax.Array) -> jax.Array:
    """Delta times weight, in at least float32."""
    wide = delta.dtype if jnp.finfo(delta.dtype).bits >= 32 else jnp.float32
    return delta.astype(wide) * weight.astype(wide)


def check_weight(weight: Any) -> Weight:
    """Give the weight back if it is one.

    Raises:
        ValueError: if it is neither "mean", "sum" nor a finite number.
    """
    if weight in ("mean", "sum"):
        return weight
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not np.isfinite(weight):
        raise ValueError(f'`weight` must be "mean", "sum" or a finite number, got {weight!r}.')
    return float(weight)


def host_device() -> jax.Device:
    """The first CPU device.

    Raises:
        RuntimeError: if JAX was told to leave the CPU backend out.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise RuntimeError(
            "the server merges on the CPU backend, which is not there; "
            'add it to JAX_PLATFORMS (for example "cuda,cpu").'
        ) from error
