"""What goes wrong while a checkpoint is saved."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import ClassVar

from jax_ssp import checks
from jax_ssp.runtimes.faults.base import SAVE, Act


@dataclass(frozen=True, repr=False)
class SaveFails(Act):
    """A save fails half-way, with an error of the disk.

    Args:
        times: so many saves fail, one after the other, of which this is the first.

    Raises:
        ValueError: if `times` is less than 1.

    Example:
        >>> SaveFails(nth=2)
        SaveFails(nth=2)
    """

    phase: str = field(default=SAVE, kw_only=True)
    times: int = field(default=1, kw_only=True)

    phases: ClassVar[tuple[str, ...]] = (SAVE,)
    timed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.put(self, "times", checks.integer, least=1)

    def act(self) -> None:
        raise OSError(errno.EIO, "an injected fault: the disk does not take it")


@dataclass(frozen=True, repr=False)
class DiskFull(SaveFails):
    """The disk is full for a while: saves fail half-way, with ENOSPC.

    Args:
        times: so many saves fail, one after the other, of which this is the first.

    Raises:
        ValueError: if `times` is less than 1.

    Example:
        >>> DiskFull(nth=2, times=5)
        DiskFull(nth=2, times=5)
    """

    times: int = field(default=3, kw_only=True)

    def act(self) -> None:
        raise OSError(errno.ENOSPC, "an injected fault: no space left on the disk")
