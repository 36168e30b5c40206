"""What workers are fed: shards of data in memory, and the feed that draws batches ahead."""

from jax_ssp.data.feed import Feed
from jax_ssp.data.shards import ShardIterator, Shards

__all__ = ["Feed", "ShardIterator", "Shards"]
