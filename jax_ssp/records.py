"""Reads what a run has written, though it may be damaged or somebody else's.

Nothing here believes a file: its size, its text, its depth and the kind of each value are checked
before they are used, and what is wrong is a `ValueError` of one line that names file and place.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import reprlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

LONGEST_LINE = 16 << 20  # bytes; a row of 100,000 workers at a barrier has half as much
LARGEST_FILE = 16 << 20  # bytes, of a file that is one JSON object
# Rows differ in their numbers, so a tape unpacks to 10 to 40 times its size. More than this is
# a file that was made to fill the memory; but what is small unpacked may be as dense as it likes.
DENSEST = 200
SMALL = 64 << 20  # bytes

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 40


def short(value: Any) -> str:
    """A value as an error shows it: one line, of a length that can be read."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"


class Kind(NamedTuple):
    """What a value must be: in words, and as a test."""

    says: str
    holds: Callable[[Any], bool]


def whole(least: int) -> Kind:
    """An integer of at least so much, that fits into 64 bits."""

    def holds(value: Any) -> bool:
        return type(value) is int and least <= value < 2**63

    return Kind(f"an integer of at least {least}", holds)


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and not a boolean."""
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and math.isfinite(value)


NUMBER = Kind("a finite number", is_number)
TEXT = Kind("a text", lambda value: type(value) is str)
TRUTH = Kind("true or false", lambda value: type(value) is bool)
RECORD = Kind("an object", lambda value: type(value) is dict)
TEXTS = Kind(
    "a list of texts", lambda value: type(value) is list and all(type(one) is str for one in value)
)


def either(*kinds: Kind) -> Kind:
    """One of several kinds."""
    says = " or ".join(kind.says for kind in kinds)
    return Kind(says, lambda value: any(kind.holds(value) for kind in kinds))


def one_of(*values: Any) -> Kind:
    """One of these values, and of the same type."""
    says = " or ".join("null" if value is None else repr(value) for value in values)

    def holds(value: Any) -> bool:
        return any(type(value) is type(each) and value == each for each in values)

    return Kind(says, holds)


def check_record(
    where: str, content: Mapping[str, Any], kinds: Mapping[str, Kind], needed: bool = True
) -> None:
    """Raise ValueError unless each of these keys is there, with a value of its kind.

    Args:
        where: whose keys they are, as the message names it.
        content: what was read.
        kinds: of the values, by key; keys that are not named may be there too.
        needed: whether all must be there, or only those that are there are checked.
    """
    for key, kind in kinds.items():
        if key not in content:
            if needed:
                raise ValueError(f"{where} lacks {key!r}, which must be {kind.says}.")
        elif not kind.holds(content[key]):
            raise ValueError(
                f"{where} says {key!r} is {short(content[key])}, which must be {kind.says}."
            )


def within(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays whose names begin like this, by the rest of their names.

    Example:
        >>> within("own/", {"own/3": 1, "own/4": 2, "base": 3})
        {'3': 1, '4': 2}
    """
    return {key.removeprefix(name): array for key, array in arrays.items() if key.startswith(name)}


def in_hex(numbers: Mapping[str, float]) -> dict[str, str]:
    """Numbers for JSON, to the last bit, also those that are not finite; `from_hex` reads them.

    Example:
        >>> in_hex({"loss": 0.5})
        {'loss': '0x1.0000000000000p-1'}
        >>> from_hex(in_hex({"loss": 0.1, "norm": float("inf")}))
        {'loss': 0.1, 'norm': inf}
    """
    return {name: float(number).hex() for name, number in numbers.items()}


def from_hex(texts: Mapping[str, str]) -> dict[str, float]:
    """The numbers that `in_hex` has written."""
    return {name: float.fromhex(text) for name, text in texts.items()}


def parsed_json(text: str | bytes) -> Any:
    """What JSON says; ValueError of one line if it is none, or nested deeper than anything real."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_bytes(path: Path, most: int = LARGEST_FILE) -> bytes:
    """A file's content; ValueError if it is larger than anything a run writes there.

    Only a file on disk is read: of a pipe or a device nobody knows the end.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file.")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} is damaged: it has more than {most >> 20} MiB.")
    return content


def read_record(path: Path, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The JSON object that a file holds, with these keys of these kinds.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is damaged.
    """
    try:
        content = parsed_json(read_bytes(path))
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it must hold an object, not {short(content)}.")
    check_record(str(path), content, kinds)
    return content


class PackedLines(Iterator[str]):
    """The whole lines of a gzip file; one that breaks off is read up to its last whole line.

    Args:
        path: of the file, which is opened when the first line is asked for.

    Attributes:
        whole: whether the file was read up to its end, which was as it was written.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is none, is damaged, or holds more than it can.
    """

    def __init__(self, path: Path) -> None:
        self.whole = False
        self._lines = self._read(path)

    def __next__(self) -> str:
        return next(self._lines)

    def _read(self, path: Path) -> Iterator[str]:
        with path.open("rb") as packed:
            size = os.fstat(packed.fileno()).st_size
            most = max(SMALL, DENSEST * size)
            with gzip.GzipFile(fileobj=packed) as file:
                for number in range(1, 1 << 62):
                    line = _packed_line(path, number, file)
                    if line is None or not line.endswith(b"\n"):
                        self.whole = line == b""
                        return
                    most -= len(line)
                    if most < 0:
                        raise ValueError(
                            f"{path} unpacks to more than {DENSEST} times its size, which no tape "
                            "does."
                        )
                    yield _decoded(path, number, line)


def _packed_line(path: Path, number: int, file: gzip.GzipFile) -> bytes | None:
    """The next line; without its end, and perhaps empty, where the file is over; None where it
    breaks off."""
    try:
        line = file.readline(LONGEST_LINE + 1)
    except EOFError:
        return None  # the writer was killed: everything up to its last flush has been read
    except (gzip.BadGzipFile, zlib.error) as error:
        what = "is not a tape, or a damaged one" if number == 1 else "is a damaged tape"
        raise ValueError(f"{path} {what}: {error}.") from error
    if len(line) > LONGEST_LINE:
        raise ValueError(f"{_place(path, number)} is longer than {LONGEST_LINE >> 20} MiB.")
    return line


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{_place(path, number)} is no UTF-8, at byte {error.start}.") from error


def _place(path: Path, number: int) -> str:
    return f"{path}, line {number}" if number > 1 else f"{path} is not a tape: its first line"
