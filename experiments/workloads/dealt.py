"""How the workloads deal their examples to workers."""

from typing import Any

import jax_ssp as ssp


def dealt(
    examples: Any, batch_size: int, num_workers: int, seed: int, elastic: bool
) -> ssp.data.Epochs | ssp.data.Shards:
    """A shard for each worker; or, if that is elastic, epochs that all of them share.

    Args:
        examples: arrays of one length.
        batch_size: examples of a batch.
        num_workers: who has a shard; epochs are shared by whoever is there.
        seed: of their order.
        elastic: whether workers may come and go.
    """
    if elastic:
        return ssp.data.Epochs(examples, batch_size, seed)
    return ssp.data.Shards(examples, batch_size, num_workers, seed)
