"""What a result was measured with: hardware, versions, date."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Date, versions, CPU cores, devices, and the commit if the package is in a git checkout."""
    import jax

    import jax_ssp

    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "jax_ssp": jax_ssp.__version__,
        "commit": _commit(Path(jax_ssp.__file__).parent),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
    }


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
