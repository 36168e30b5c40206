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
    """The commit, `-dirty` if anything but results differs from it: one run writes many of them."""
    others = (":/", ":(top,exclude,glob)**/results/**")
    changed = ["status", "--porcelain", "--untracked-files=no", "--", *others]
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return f"{commit}-dirty" if _git(folder, *changed) else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return found.stdout.strip()
