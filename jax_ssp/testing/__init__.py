"""Contract tests for parts of one's own; those of this package are held to the same.

Each raises an AssertionError that says what is wrong, and how to see it again.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_ssp.testing.compressors import check_compressor as check_compressor
    from jax_ssp.testing.delays import check_delay_model as check_delay_model
    from jax_ssp.testing.mitigations import check_mitigation as check_mitigation
    from jax_ssp.testing.policies import check_policy as check_policy
    from jax_ssp.testing.steps import check_step as check_step

_NAMES = {
    "check_compressor": "compressors",
    "check_delay_model": "delays",
    "check_mitigation": "mitigations",
    "check_policy": "policies",
    "check_step": "steps",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
