"""The names of a sweep's runs: lists such as "line, SSP(bound=3), learning_rate=0.1"."""

from __future__ import annotations

import re
from collections.abc import Sequence


def parts_of(label: str) -> list[str]:
    """What a label lists; commas within brackets divide nothing.

    Example:
        >>> parts_of("line, SSP(bound=3, adopt='lazy'), overlap=1")
        ['line', "SSP(bound=3, adopt='lazy')", 'overlap=1']
    """
    return [part.strip() for part in re.split(r",\s+(?![^(]*\))", label)]


def shortened(labels: Sequence[str]) -> dict[str, str]:
    """Labels without what all of them begin with.

    Example:
        >>> shortened(["line, BSP, k=1", "line, ASP, k=1"])
        {'line, BSP, k=1': 'BSP, k=1', 'line, ASP, k=1': 'ASP, k=1'}
    """
    split = {label: parts_of(label) for label in labels}
    shared = 0
    while len(split) > 1 and len({tuple(parts[: shared + 1]) for parts in split.values()}) == 1:
        shared += 1
    return {label: ", ".join(parts[shared:]) or label for label, parts in split.items()}
