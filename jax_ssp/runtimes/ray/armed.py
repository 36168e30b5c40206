"""What a worker was before the clock that it runs, for a checkpoint that asks beside it."""

from __future__ import annotations

import threading

from jax_ssp.controller.events import Token
from jax_ssp.worker.kept import Kept

BEGUN_SECONDS = 60.0  # for a clock that was sent


class Armed:
    """What a worker was before the clock that it began last, for who asks beside that."""

    def __init__(self) -> None:
        self._kept: tuple[Token, Kept] | None = None
        self._changed = threading.Condition()

    def put(self, kept: tuple[Token, Kept] | None) -> None:
        """A clock is begun; with nothing if the worker is not armed, or something is wrong."""
        with self._changed:
            self._kept = kept
            self._changed.notify_all()

    def of(self, token: Token) -> Kept:
        """What it was before this clock, which was sent to be begun.

        Raises:
            RuntimeError: if it is not begun in time, since something else went wrong.
        """
        with self._changed:
            begun = self._changed.wait_for(lambda: self._is(token), BEGUN_SECONDS)
            if not begun or self._kept is None:
                raise RuntimeError(f"the clock of {token} is not begun.")
            return self._kept[1]

    def _is(self, token: Token) -> bool:
        return self._kept is not None and self._kept[0] == token
