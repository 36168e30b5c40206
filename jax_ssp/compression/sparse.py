"""How many numbers of a leaf a sparse format sends."""

from __future__ import annotations

from dataclasses import dataclass

from jax_ssp.checks import INT32, integer, put, share, shown
from jax_ssp.compression.base import Compressor

DEFAULT = 0.1


@dataclass(frozen=True)
class Sparse(Compressor):
    """Base of the formats that send k numbers of each leaf, as a share or as a number."""

    fraction: float | None = None
    k: int | None = None

    for_snapshots = False

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.fraction is not None and self.k is not None:
            raise ValueError(
                f"`{name}` takes `fraction` or `k`, not both, got {shown(self.fraction)} and "
                f"{shown(self.k)}; set the other to None."
            )
        if self.k is not None:
            object.__setattr__(self, "k", integer(f"{name}(k=...)", self.k, least=1, most=INT32))
        elif self.fraction is None:
            object.__setattr__(self, "fraction", DEFAULT)
        else:
            put(self, "fraction", share, zero=False)

    def count(self, size: int) -> int:
        """How many of so many numbers are sent: of a share the least k with k / size >= share."""
        if self.k is not None:
            return min(self.k, size)
        assert self.fraction is not None
        # Compared as floating point has it: `fraction=k / size` is then k, and not one more.
        k = int(self.fraction * size)
        while k > 0 and (k - 1) / size >= self.fraction:
            k -= 1
        while k < size and k / size < self.fraction:
            k += 1
        return k

    @property
    def amount(self) -> str:
        """The one of the two that was given, for messages."""
        return f"`k`, here {self.k}" if self.k is not None else f"`fraction`, here {self.fraction}"
