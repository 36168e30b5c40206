"""Numbers and tables as people read them: Markdown for files and READMEs, rich for terminals."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_low
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def format_number(value: object, digits: int = 4) -> str:
    """A value as people write it: whole numbers whole, others to `digits` significant digits.

    Powers of ten appear only below 1e-4 and from 1e7 on. None is empty; NumPy scalars count as
    Python's; what is not a number is written as it is.

    Example:
        >>> [format_number(value) for value in (480, 0.94, 2 / 3, 12345.6, 3e-7, None)]
        ['480', '0.94', '0.6667', '12346', '3e-07', '']
    """
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text and 1 <= abs(value) < 1e7 else text


def format_seconds(seconds: float) -> str:
    """A length of time, in the unit that suits it.

    Example:
        >>> [format_seconds(seconds) for seconds in (0.0123, 42.21, 1234, 10_000)]
        ['0.012 s', '42.2 s', '21 min', '2.8 h']
    """
    if seconds < 600:
        return f"{format_number(float(seconds), 3 if seconds >= 1 else 2)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def histogram(values: Iterable[int]) -> str:
    """A histogram in a line: smallest, up to 16 bars, largest, and the median.

    Example:
        >>> histogram([0, 1, 1, 1, 1, 2, 2, 4])
        '0 ▂█▄ ▂ 4 (median 1)'
    """
    counts = Counter(values)
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    width = math.ceil((high - low + 1) / 16)
    bins = [0] * ((high - low) // width + 1)
    for value, count in counts.items():
        bins[(value - low) // width] += count
    bars = "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * count / max(bins))] for count in bins)
    return f"{low} {bars} {high} (median {median_low(sorted(counts.elements()))})"


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A table in Markdown, its columns aligned in the source too, numbers to the right.

    Args:
        rows: one mapping a row; what a row does not have stays empty.
        columns: which columns, in this order; all by default, in the order they first appear in.

    Returns:
        Lines joined by newlines, without a last newline.

    Example:
        >>> rows = [{"policy": "BSP", "seconds": 41.25}, {"policy": "SSP(3)", "seconds": 9.5}]
        >>> print(markdown_table(rows))
        | policy | seconds |
        | ------ | ------: |
        | BSP    |   41.25 |
        | SSP(3) |    9.50 |
    """
    lines: list[list[str]] = []
    for name in _columns(rows, columns):
        values = [row.get(name) for row in rows]
        cells = [_one_line(cell) for cell in (name, *_format_column(values))]
        width = max(3, *map(len, cells))
        if _numeric(values):
            lines.append([cell.rjust(width) for cell in cells])
            lines[-1].insert(1, "-" * (width - 1) + ":")
        else:
            lines.append([cell.ljust(width) for cell in cells])
            lines[-1].insert(1, "-" * width)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in zip(*lines, strict=True))


def print_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """Print a table to a terminal.

    Args:
        rows, columns: as in `markdown_table`.
        title: a line above the table.
        console: where to; standard output by default.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    cells: list[list[str]] = []
    for name in _columns(rows, columns):
        values = [row.get(name) for row in rows]
        table.add_column(Text(name), justify="right" if _numeric(values) else "left")
        cells.append(_format_column(values))
    for row in zip(*cells, strict=True):
        table.add_row(*map(Text, row))
    # Into a file or a pipe a table goes at its full width.
    (console or Console(width=None if sys.stdout.isatty() else 200)).print(table)


def _columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None) -> list[str]:
    return list(columns or dict.fromkeys(name for row in rows for name in row))


def _format_column(values: Sequence[object]) -> list[str]:
    """Cells of one column: with equally many decimals, where that needs few digits."""
    cells = [format_number(value) for value in values]
    floats = [
        (index, value)
        for index, value in enumerate(map(_plain, values))
        if isinstance(value, float) and math.isfinite(value)
    ]
    parts = [cells[index].lstrip("-").partition(".") for index, _ in floats]
    decimals = max((len(part[2]) for part in parts), default=0)
    digits = max((len(part[0]) for part in parts), default=0) + decimals
    if digits <= 6 and not any("e" in cells[index] for index, _ in floats):
        for index, value in floats:
            cells[index] = f"{value:.{decimals}f}"
    return cells


def _numeric(values: Sequence[object]) -> bool:
    present = [value for value in map(_plain, values) if value is not None]
    return bool(present) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in present
    )


def _plain(value: Any) -> Any:
    """The Python number that a NumPy scalar holds; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
