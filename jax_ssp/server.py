"""The server: merged parameters, their versions, and the server's optimizer.

A merge makes one new version, `params' = params + tx(sum of weight * delta)`, in one jitted
program. Versions are immutable, so they are shared without a copy: whoever needs an old one keeps a
reference to it, and the server itself holds only the newest.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_ssp.steps import Params
from jax_ssp.tape import weight_of

Weight: TypeAlias = Literal["mean", "sum"] | float


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
        averaged: tree of booleans like `params`, true for what is not trained (BatchNorm
            statistics): its deltas always count 1 / num_workers, and the transform leaves it alone.

    Raises:
        ValueError: if `weight` is not one of these, or not finite.
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
        device: jax.Device | None = None,
        averaged: Any = None,
    ) -> None:
        self.weight = check_weight(weight)
        if not isinstance(server_tx, optax.GradientTransformation | None):
            raise TypeError(f"`server_tx` must be an optax transform, got {server_tx!r}.")
        self.device = host_device() if device is None else device
        self.version = 0
        self._averaged = jax.tree.map(lambda _: False, params) if averaged is None else averaged
        tx = server_tx or optax.identity()
        if averaged is not None:
            tx = optax.masked(tx, jax.tree.map(operator.not_, averaged))
        self._tx = optax.with_extra_args_support(tx)
        self._params = jax.device_put(_owned(params), self.device, may_alias=False)
        self._state = jax.device_put(jax.jit(self._tx.init)(self._params), self.device)
        self._merge = jax.jit(self._merged, donate_argnums=1)

    @property
    def params(self) -> Params:
        """The newest version's parameters."""
        return self._params

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
        return self._params

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
        on_device = jax.device_put(_owned(tuple(deltas)), self.device)
        arguments = self._arguments(on_device, staleness, lag, worker, count)
        self._params, self._state = self._merge(*arguments)
        self.version += 1
        return self.version

    def compile(self, num_deltas: int) -> None:
        """Compile the merge of so many deltas by running it once; nothing is kept of it."""
        params, state, deltas, *others = self._example(num_deltas)
        state = jax.tree.map(jnp.copy, state)  # the merge takes its state over
        jax.block_until_ready(self._merge(params, state, deltas, *others))

    def program(self) -> str:
        """The merge of one delta as compiler text: the same text, the same server."""
        return self._merge.lower(*self._example(1)).as_text()

    def _example(self, num_deltas: int) -> tuple[Any, ...]:
        return self._arguments((self._params,) * num_deltas, 0, 0, 0, 1)

    def _arguments(
        self, deltas: tuple[Params, ...], staleness: int, lag: int, worker: int, num_workers: int
    ) -> tuple[Any, ...]:
        weight = as_weight(weight_of(self.weight, num_workers))
        extras = {
            "staleness": np.int32(staleness),
            "lag": np.int32(lag),
            "worker": np.int32(worker),
            "num_workers": np.int32(num_workers),
        }
        return self._params, self._state, deltas, weight, extras

    def _merged(
        self,
        params: Params,
        state: optax.OptState,
        deltas: tuple[Params, ...],
        weight: jax.Array,
        extras: dict[str, jax.Array],
    ) -> tuple[Params, optax.OptState]:
        share = 1.0 / extras["num_workers"].astype(weight.dtype)

        def total(averaged: bool, *leaves: jax.Array) -> jax.Array:
            # In the order given, so that the sum is the same from run to run.
            first, *others = (weighted(leaf, share if averaged else weight) for leaf in leaves)
            return sum(others, start=first).astype(leaves[0].dtype)

        updates = jax.tree.map(total, self._averaged, *deltas)
        updates, state = self._tx.update(updates, state, params, **extras)
        return optax.apply_updates(params, updates), state


def _owned(tree: Params) -> Params:
    """NumPy leaves copied: JAX may compute on their memory later, whatever is in it by then."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def all_finite(params: Params) -> bool:
    """Is every number of a version, or of a delta, finite?"""
    return bool(_all_finite(jax.tree.leaves(params)))


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


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
