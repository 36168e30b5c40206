"""The server: merged parameters, their versions, and the server's optimizer.

A merge makes one new version, `params' = params + tx(sum of weight * delta)`, in one jitted
program. Versions are immutable, so they are shared without a copy: whoever needs an old one keeps a
reference to it, and the server itself holds only the newest.
"""

from __future__ import annotations

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
    ) -> None:
        self.weight = check_weight(weight)
        if not isinstance(server_tx, optax.GradientTransformation | None):
            raise TypeError(f"`server_tx` must be an optax transform, got {server_tx!r}.")
        self.device = host_device() if device is None else device
        self.version = 0
        self._tx = optax.with_extra_args_support(server_tx or optax.identity())
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
        self._params, self._state = self._merge(
            *self._merge_args(jax.device_put(_owned(tuple(deltas)), self.device), count),
            {
                "staleness": np.int32(staleness),
                "lag": np.int32(lag),
                "worker": np.int32(worker),
                "num_workers": np.int32(count),
            },
        )
        self.version += 1
        return self.version

    def program(self) -> str:
        """The merge of one delta as compiled text: the same text, the same server."""
        extras = dict.fromkeys(("staleness", "lag", "worker", "num_workers"), np.int32(0))
        return self._merge.lower(*self._merge_args((self._params,), 1), extras).as_text()

    def _merge_args(self, deltas: tuple[Params, ...], num_workers: int) -> tuple[Any, ...]:
        weight = np.float32(weight_of(self.weight, num_workers))
        return self._params, self._state, deltas, weight

    def _merged(
        self,
        params: Params,
        state: optax.OptState,
        deltas: tuple[Params, ...],
        weight: jax.Array,
        extras: dict[str, jax.Array],
    ) -> tuple[Params, optax.OptState]:
        def total(*leaves: jax.Array) -> jax.Array:
            # In at least float32, in the order given: the sum is the same from run to run.
            dtype = leaves[0].dtype
            wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
            first, *others = (leaf.astype(wide) * weight.astype(wide) for leaf in leaves)
            return sum(others, start=first).astype(dtype)

        updates = jax.tree.map(total, *deltas)
        updates, state = self._tx.update(updates, state, params, **extras)
        return optax.apply_updates(params, updates), state


def _owned(tree: Params) -> Params:
    """NumPy leaves copied: JAX may compute on their memory later, whatever is in it by then."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


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
