"""Contract tests for parts of one's own; those of this package are held to the same.

Each raises an AssertionError that says what is wrong, and how to see it again.
"""

from __future__ import annotations

import importlib
from typing import Any

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
