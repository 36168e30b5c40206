"""The tables of `docs/scaling.md`, made from the files of results.

    python -m experiments.benchmarks.scale.page

Prints them; a test sees to it that the page has them as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.benchmarks.scale.costs import RESULTS

Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    """The rows of a table of results."""
    return json.loads((RESULTS / "scale" / f"{name}.json").read_text())["rows"]


def goodput() -> str:
    """Goodput by policy and number of workers: in the long run, where that is known."""
    rows = rows_of("failures")
    sizes = sorted({row["workers"] for row in rows})
    policies = dict.fromkeys(_family(row) for row in rows)
    found = {
        (_family(row), row["workers"]): _share(row["long_run"] or row["goodput"]) for row in rows
    }
    lines = ([name, *(found.get((name, size), "") for size in sizes)] for name in policies)
    return _table(["workers", *(f"{size:,}" for size in sizes)], lines)


def saturation() -> str:
    """How busy controller and shards are, and what comes of too few."""
    lines = []
    for row in rows_of("saturation"):
        half = (
            "" if row["ssp_half"] == "" else f"{row['ssp_half']:.0%} ({row['expected_half']:.0%})"
        )
        lines.append(
            [
                *(f"{row['workers']:,}", f"{row['gigabytes']:g} GB", _tiny(row["controller"])),
                *(_number(row["one_shard"]), f"{row['shards']:,}", f"{row['barrier_shards']:,}"),
                *(_whole(row["ssp"]), half, _whole(row["bsp"]), _whole(row["bsp_barrier"])),
            ]
        )
    head = ["workers", "parameters", "controller busy", "one shard", "shards"]
    head += ["shards at a barrier", "SSP(3)", "SSP(3), half the shards (expected)", "BSP"]
    return _table([*head, "BSP, shards at a barrier"], lines)


def costs() -> str:
    """What an event costs by policy, in events of SSP(3)."""
    rows = rows_of("costs")
    sizes = sorted({row["workers"] for row in rows})
    ratios = {(row["policy"], row["workers"]): _number(row["ratio_to_ssp"]) for row in rows}
    policies = [name for name in dict.fromkeys(row["policy"] for row in rows) if name != "SSP(3)"]
    lines = ([name, *(ratios.get((name, size), "") for size in sizes)] for name in policies)
    return _table(["workers", *(f"{size:,}" for size in sizes)], lines)


def _family(row: Row) -> str:
    return row["policy"].partition("(")[0] if "Backup" in row["policy"] else row["policy"]


def _share(share: float) -> str:
    return f"{math.floor(1000 * share) / 10:.1f}"  # 99.96 % is not all


def _number(value: float) -> str:
    return f"{value:,.2f}" if value < 1 else f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _tiny(share: float) -> str:
    return "< 0.01%" if share < 5e-5 else f"{share:.2%}"


def _whole(share: float | str) -> str:
    return "" if isinstance(share, str) else f"{share:.0%}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    bar = "|".join(["", "---", *["--:"] * (len(head) - 1), ""])
    return "\n".join([f"| {' | '.join(head)} |", bar, *(f"| {' | '.join(x)} |" for x in lines)])


if __name__ == "__main__":
    for table in (goodput, saturation, costs):
        print(table(), end="\n\n")
