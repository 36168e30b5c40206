"""What workers are fed: shards of data in memory, and the feed that draws batches ahead."""

from jax_ssp.data.feed import Feed, kind_of, owned
from jax_ssp.data.shards import ShardIterator, Shards

__all__ = ["Feed", "ShardIterator", "Shards", "kind_of", "owned"]
