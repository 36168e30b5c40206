"""Chance that is a function of where one is: the same seed and place, the same number.

A run that is stopped and goes on draws at each row what it would have drawn without the stop, so
the two can be compared to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
_BITS = (1 << 64) - 1


def mixed(number: int) -> int:
    """A number of 64 bits that looks like chance (Steele et al. 2014, SplitMix64).

    Example:
        >>> mixed(0) == mixed(0), mixed(0) == mixed(1)
        (True, False)
    """
    number = (number + 0x9E3779B97F4A7C15) & _BITS
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _BITS
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _BITS
    return number ^ (number >> 31)


class Dice:
    """Draws that follow from a seed, a place, and how many were drawn at that place before.

    Example:
        >>> here, again = Dice(7), Dice(7)
        >>> here.at(3); again.at(3)
        >>> here.below(100) == again.below(100)
        True
    """

    def __init__(self, seed: int) -> None:
        self._seed = mixed(seed)
        self._place = self._seed

    def at(self, place: int) -> None:
        """Draw from this place on."""
        self._place = mixed(self._seed ^ mixed(place))

    def below(self, end: int) -> int:
        """One of 0 to `end` - 1."""
        self._place = mixed(self._place)
        return self._place % end

    def hits(self, percent: int) -> bool:
        """Whether something happens that does so often."""
        return self.below(100) < percent

    def one_of(self, several: Sequence[T]) -> T:
        """One of these."""
        return several[self.below(len(several))]
