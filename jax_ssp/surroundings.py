"""Where a person sits (a notebook, Python's prompt, a script that runs), and on how many cores."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal, TypeAlias

Surroundings: TypeAlias = Literal["notebook", "prompt", "script"]


def surroundings() -> Surroundings:
    """What this process is, for whoever looks at it.

    Returns:
        "notebook" in a kernel of IPython's (Jupyter, Colab, VS Code), whose outputs can be changed;
        "prompt" where a person types lines one by one; "script" otherwise. IPython is asked only if
        it is imported already.
    """
    shell = ipython()
    if shell is not None:
        return "notebook" if hasattr(shell, "kernel") else "prompt"
    return "prompt" if hasattr(sys, "ps1") or sys.flags.interactive else "script"


def ipython() -> Any:
    """The shell of IPython that runs this process; None if none does."""
    module = sys.modules.get("IPython")
    try:
        return None if module is None else module.get_ipython()
    except Exception:  # such as a half-imported module
        return None


def is_terminal(stream: Any) -> bool:
    """Whether a stream is shown to a person, such as `sys.stderr`."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def is_watched() -> bool:
    """Whether a person sees what is shown now: in a notebook, or on a terminal."""
    return surroundings() == "notebook" or is_terminal(sys.stderr)


def cores() -> int:
    """How many cores of the machine this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def more_cpu_devices(number: int) -> str:
    """What a person can do for that many CPU devices once JAX has started with fewer.

    Args:
        number: of CPU devices.

    Returns:
        A sentence that fits where the person sits.
    """
    early = f'`import jax; jax.config.update("jax_num_cpu_devices", {number})`'
    where = surroundings()
    if where == "notebook":
        return f"Restart the kernel, and run {early} in the first cell, before any array is made."
    if where == "prompt":
        return f"Start Python anew, with JAX_NUM_CPU_DEVICES={number} in its environment."
    return (
        f"Run it with JAX_NUM_CPU_DEVICES={number} in the environment, or begin it with {early}, "
        "before any array is made."
    )
