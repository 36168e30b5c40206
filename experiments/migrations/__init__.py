"""Two recipes moved here: a loop of optax and flax, and the same as a config, in one file each."""
