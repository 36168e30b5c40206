"""Tapes of runs of the command line as lists of rows, to be tampered with."""

import gzip
import json
from pathlib import Path


def rows_of(tape: Path) -> list:
    with gzip.open(tape, "rt") as file:
        return [json.loads(line) for line in file]


def write_rows(tape: Path, rows: list) -> None:
    with gzip.open(tape, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
