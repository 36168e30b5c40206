"""The hyper-parameters that the server's transforms have used, where they are injected."""

from __future__ import annotations

from collections.abc import Mapping

from jax_ssp.server.store import Store
from jax_ssp.worker.hyperparameters import PREFIX, hyperparameters

SERVER, DELTAS = f"{PREFIX}server/", f"{PREFIX}deltas/"
"""Of the names of those of `server_tx` and of `delta_tx`."""


class ServerHyperparameters:
    """Reads what the last merge has used; false where there is nothing to read.

    Args:
        store: the server's; None where nothing is computed.
        optimizer_there: whether the server's transform is the step's optimizer: then its names are
            those that they have on workers.
    """

    def __init__(self, store: Store | None, optimizer_there: bool = False) -> None:
        self._store = store
        self._prefix = PREFIX if optimizer_there else SERVER
        self._some = store is not None and bool(self._read(store))

    def __bool__(self) -> bool:
        return self._some

    def read(self) -> Mapping[str, float]:
        """By name; nothing is waited for where there are none."""
        if not self._some or self._store is None:
            return {}
        return {name: float(value) for name, value in self._read(self._store).items()}

    def _read(self, store: Store) -> dict[str, object]:
        found: dict[str, object] = {}
        for prefix, state in zip((self._prefix, DELTAS), store.states, strict=True):
            pieces = state if len(store.devices) > 1 else (state,)
            if pieces:  # of which all use the same
                found.update(hyperparameters(pieces[0], prefix))
        return found
