"""Two recipes moved here: a loop of optax and flax, and the same as a config, in one file each.

`python -m experiments.migrations` measures what came of it.
"""
