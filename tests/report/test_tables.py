"""Numbers and tables as people read them."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from jax_ssp.report.tables import (
    format_number,
    format_seconds,
    histogram,
    markdown_table,
    print_table,
)

ROWS = [
    {"policy": "BSP", "updates": 1200, "loss": 0.40625, "reached": True},
    {"policy": "SSP(3)", "updates": 96, "loss": 12.5, "note": "a | b"},
]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1_200_000, "1200000"),
        (0.0, "0"),
        (-0.94, "-0.94"),
        (123456.7, "123457"),
        (1.5e8, "1.5e+08"),
        (0.00012345, "0.0001234"),
        (1e-9, "1e-09"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (np.float32(0.5), "0.5"),
        (np.int64(7), "7"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (None, ""),
        ("SSP(3)", "SSP(3)"),
    ],
)
def test_numbers_are_written_as_people_write_them(value: object, text: str) -> None:
    assert format_number(value) == text


def test_seconds_come_in_a_unit_that_suits_them() -> None:
    texts = [format_seconds(seconds) for seconds in (0, 0.00123, 59.96, 599.9, 600, 7200)]
    assert texts == ["0 s", "0.0012 s", "60 s", "600 s", "10 min", "2.0 h"]


def test_histogram_bins_many_values() -> None:
    assert histogram([]) == ""
    assert histogram([5, 5]) == "5 █ 5 (median 5)"
    wide = histogram(range(1000))
    assert wide.startswith("0 ")
    assert len(wide.split()[1]) <= 16


def test_markdown_is_aligned() -> None:
    lines = markdown_table(ROWS).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split("|")[2].strip().endswith("-:")  # numbers to the right
    assert not lines[1].split("|")[1].strip().endswith(":")
    assert "  0.4062 |" in lines[2]  # as many decimals in the column's other rows
    assert " 12.5000 |" in lines[3]
    assert r"a \| b" in lines[3]


def test_markdown_leaves_blank_what_is_not_there_and_picks_columns() -> None:
    table = markdown_table(ROWS, columns=["note", "policy"])
    assert table.splitlines()[0].split() == ["|", "note", "|", "policy", "|"]
    assert table.splitlines()[2].split("|")[1].strip() == ""
    assert "1200" not in table


def test_decimals_are_not_padded_over_many_magnitudes() -> None:
    table = markdown_table([{"x": 0.001234}, {"x": 1200.5}, {"x": math.nan}, {"x": 1e-8}])
    assert "0.001234 |" in table
    assert " 1200 |" in table or " 1200.5 |" in table
    assert "nan |" in table


def test_a_table_on_the_terminal_has_the_same_cells() -> None:
    console = Console(file=io.StringIO(), width=100)
    print_table([*ROWS, {"policy": "[red]x[/red]"}], title="Digits", console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("Digits", "policy", "SSP(3)", "1200", "12.5000", "[red]x[/red]"):
        assert part in text
