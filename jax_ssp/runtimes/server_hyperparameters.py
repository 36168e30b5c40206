"""What the server's transforms have used in a merge, and measured of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jax_ssp.mitigations.correlation import found, measures
from jax_ssp.server.store import Store
from jax_ssp.worker.hyperparameters import PREFIX, hyperparameters

SERVER, DELTAS = f"{PREFIX}server/", f"{PREFIX}deltas/"
"""Of the names of those of `server_tx` and of `delta_tx`."""


class ServerHyperparameters:
    """Reads what the last merge has used and measured; false where there is nothing to read.

    What is used are the hyper-parameters that are injected, what is measured see `ssp.outer`.

    Args:
        store: the server's; None where nothing is computed.
        optimizer_there: whether the server's transform is the step's optimizer: then its names are
            those that they have on workers.
    """

    def __init__(self, store: Store | None, optimizer_there: bool = False) -> None:
        self._store = store
        self._prefix = PREFIX if optimizer_there else SERVER
        self._uses = store is not None and bool(self._used(store))
        self._measures = store is not None and any(True for _ in found(store.small_states[0]))

    def __bool__(self) -> bool:
        return self._uses or self._measures

    def read(self, clocks: Iterable[int]) -> Mapping[int, Mapping[str, float]]:
        """By name, for each of the clocks that were merged; of those of one fragment it is one."""
        store = self._store
        if store is None or not self:
            return {clock: {} for clock in clocks}
        used = {name: float(value) for name, value in self._used(store).items()}
        if not self._measures:
            return dict.fromkeys(clocks, used)
        known = list(found(store.small_states[0]))  # of each piece, those of a fragment alike
        fragments, of = max(1, len(known) // len(store.devices)), dict[int, Mapping[str, float]]()
        for fragment in {clock % fragments for clock in clocks}:
            of[fragment] = {**used, **measures(known[fragment * len(store.devices)])}
        return {clock: of[clock % fragments] for clock in clocks}

    def _used(self, store: Store) -> dict[str, object]:
        found: dict[str, object] = {}
        for prefix, state in zip((self._prefix, DELTAS), store.small_states, strict=True):
            pieces = state if len(store.devices) > 1 else (state,)
            if pieces:  # of which all use the same
                found.update(hyperparameters(pieces[0], prefix))
        return found
