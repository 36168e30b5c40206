"""What a run leaves on the disk, and what is read from there; each name is imported when used.

So that a tape can be verified without JAX, and a run read without Orbax.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_ssp.checkpoint.checkpoints import Checkpoints as Checkpoints
    from jax_ssp.checkpoint.metrics import read_metrics as read_metrics
    from jax_ssp.checkpoint.params import load_params as load_params
    from jax_ssp.checkpoint.params import save_params as save_params
    from jax_ssp.checkpoint.run_folder import RunFolder as RunFolder
    from jax_ssp.checkpoint.run_reader import Run as Run
    from jax_ssp.checkpoint.run_reader import read_run as read_run
    from jax_ssp.checkpoint.run_reader import runs_in as runs_in

_NAMES = {
    "Checkpoints": "checkpoints",
    "Run": "run_reader",
    "RunFolder": "run_folder",
    "load_params": "params",
    "read_metrics": "metrics",
    "read_run": "run_reader",
    "runs_in": "run_reader",
    "save_params": "params",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
