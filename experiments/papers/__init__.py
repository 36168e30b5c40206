"""Papers reproduced, one a folder; `jax-ssp reproduce --list`."""
