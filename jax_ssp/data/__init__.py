"""What workers are fed: shards of data in memory, and the feed that draws batches ahead."""

from jax_ssp.data.shards import Feed, ShardIterator, Shards, kind_of, owned

__all__ = ["Feed", "ShardIterator", "Shards", "kind_of", "owned"]
