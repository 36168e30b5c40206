"""The tables of `docs/peers.md`, made from the files of results.

    python -m experiments.benchmarks.peers.page

Prints them; a test sees to it that the page has them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from experiments.benchmarks.overhead import SIZES
from experiments.benchmarks.peers.case import BOUND
from experiments.benchmarks.scale.costs import RESULTS

Row = dict[str, Any]
SIZE_NAMES = dict(zip((size.name for size in SIZES), ("66 kB", "1 MB", "17 MB"), strict=False))


def rows_of_all() -> list[Row]:
    """The rows of all files, with the one that each is from."""
    return [
        {**row, "file": path.stem.split("-")[0]}
        for path in sorted((RESULTS / "peers").glob("*.json"))
        for row in json.loads(path.read_text())["rows"]
    ]


def alike(workers: int) -> str:
    """Nobody straggles: of the bound, and worker-steps a second."""
    return _table(
        [row for row in rows_of_all() if row["workers"] == workers and row["stragglers"] == "none"],
        lambda row: f"{SIZE_NAMES[row['model']]}, H = {row['local_steps']}",
        lambda row: f"{row['ratio_to_bound']:.2f} ({_short(row['steps_per_second'])})",
    )


def straggling() -> str:
    """Workers straggle: wall time over the ideal."""
    return _table(
        [row for row in rows_of_all() if row["stragglers"] != "none"],
        lambda row: f"W = {row['workers']}, H = {row['local_steps']}",
        lambda row: f"{1 / row['ratio_to_bound']:.2f}",
    )


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def _table(rows: list[Row], column: Callable[[Row], str], cell: Callable[[Row], str]) -> str:
    """A line a system, in the order of the files."""
    columns = dict.fromkeys(column(row) for row in rows)
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        lines.setdefault((row["file"], row["system"]), {})[column(row)] = cell(row)
    found = ["| system | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for (file, system), cells in lines.items():
        name = f"*bound of {file}*" if system == BOUND else system
        found.append(f"| {name} | " + " | ".join(cells.get(each, "") for each in columns) + " |")
    return "\n".join(found)


def main() -> None:
    print(alike(2), alike(4), straggling(), sep="\n\n")


if __name__ == "__main__":
    main()
