"""What a run leaves on the disk, and what is read from there."""

from jax_ssp.checkpoint.params import load_params, save_params

__all__ = ["load_params", "save_params"]
