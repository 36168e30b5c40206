"""What workers are fed: data in memory, split or shared, and the feed that draws batches ahead."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_ssp.data.elastic import Elastic
    from jax_ssp.data.epochs import Epochs
    from jax_ssp.data.feed import Feed
    from jax_ssp.data.shards import ShardIterator, Shards

__all__ = ["Elastic", "Epochs", "Feed", "ShardIterator", "Shards"]

_NAMES = {
    "Elastic": "elastic",
    "Epochs": "epochs",
    "Feed": "feed",
    "ShardIterator": "shards",
    "Shards": "shards",
}


def __getattr__(name: str) -> Any:  # the ledger is imported without JAX
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
