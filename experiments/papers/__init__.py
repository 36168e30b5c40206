"""Papers reproduced, one a file; `jax-ssp reproduce --list`."""
