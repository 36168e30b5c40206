"""Training at a scale that nobody has here: in virtual time, with costs that were measured.

- `costs`: what an event costs the controller, by policy, and what a shard merges and receives.
- `failures`: goodput of 16 to 100,000 workers that fail.
- `saturation`: how busy controller and shards are, and how many shards are needed.
- `published`: the comparison of Decoupled DiLoCo, in shape.
"""
