"""Runs on a cluster: workers and shares of the server are Ray actors, each a process with a JAX.

The loop and the controller are where `train` is called. Workers are threads there, as on `Devices`;
what each computes with is in an actor (`remote.py` stands for it, `worker.py` is in it), and
so is each share of the server (`sharded.py`, `shard.py`). Deltas and snapshots go from one actor to
another through Ray's object store; what passes here is numbers, and references to arrays.
"""
