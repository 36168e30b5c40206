"""What the policy and the server need of workers, beside deltas."""

from __future__ import annotations

from typing import NamedTuple


class Needs(NamedTuple):
    """What the policy and the server need of workers, beside deltas.

    Attributes:
        own: that they read their own deltas before those are merged.
        norm: the norms of their deltas.
        undo: that a clock which was begun can be cancelled.
    """

    own: bool = True
    norm: bool = False
    undo: bool = False
