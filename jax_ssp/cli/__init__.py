"""The command line: `jax-ssp run | replay | verify | reproduce | devices`, a command a file."""

from jax_ssp.cli.main import main

__all__ = ["main"]
