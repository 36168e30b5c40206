"""What the benchmarks share: arguments, the table, the JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jax_ssp.report.environment import environment

Row = Mapping[str, Any]


def arguments(doc: str | None, argv: Sequence[str] | None = None, **more: Any) -> Any:
    """Parse `[--quick] [--json FILE]`; `more` adds options, each with its default and its type.

    One whose default is False is a flag.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there as JSON")
    for name, default in more.items():
        how = {"action": "store_true"} if default is False else {"type": type(default)}
        parser.add_argument(f"--{name}", default=default, **how)
    return parser.parse_args(argv)


def described(name: str, args: Any) -> dict[str, Any]:
    """What figures are of: options with the seeds, versions, commit, hardware and its load."""
    options = {key: value for key, value in vars(args).items() if key not in ("quick", "json")}
    told = {key: value for key, value in options.items() if not isinstance(value, Path)}
    named = {"benchmark": name, "quick": args.quick, "options": told}
    load = [round(each, 2) for each in os.getloadavg()]
    return {**named, **environment(), "processor": _processor(), "load": load}


def _processor() -> str:
    """Its name, where the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(name: str, columns: Sequence[str], rows: Sequence[Row], args: Any, **more: Any) -> None:
    """Print the table and write the JSON file, if one was asked for; `more` is in the file only."""
    meta = described(name, args)
    table = Table(title=name)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in columns))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in meta.items()), style="dim")
    if args.json is not None:
        facts = {"meta": meta, "rows": [{c: row[c] for c in columns} for row in rows], **more}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def alternating(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each once a round, one after the other, so that what drifts drifts for all."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return taken


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of ours / theirs."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes (wall seconds)."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
