"""Bytes to learn: the standard library's source files, or any file or folder; some are held out.

The files of a folder stand one after the other in the order of their paths, a zero byte after
each. Which are held out for evaluation is decided by a hash of the path within the folder, so that
a file that is added moves no other from one side to the other. A file whose content was there
before, under another name, is left out: it might stand on both sides. Of a single file the end is
held out.

Nothing is unpickled. What is small is kept in memory; what is large is one flat file in the user's
cache folder, mapped into memory, so that many processes share one copy of it.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

HELD_OUT = 0.05  # share of the files, or of the one file's bytes
IN_MEMORY = 64 << 20  # bytes; what is larger is mapped from a file
AFTER = b"\0"  # each file
SKIPPED = ("site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test")


class Text(NamedTuple):
    """What is trained on, and what is held out: bytes, as arrays of uint8."""

    train: np.ndarray
    held_out: np.ndarray


@functools.lru_cache(maxsize=4)
def load_text(place: Path | None = None, pattern: str = "*", in_memory: int = IN_MEMORY) -> Text:
    """The bytes of a file, of a folder, or of this interpreter's standard library.

    Args:
        place: a file, or a folder whose files are taken, those in its folders too; names that begin
            with a dot are passed over. None is the standard library: its `.py` files, but neither
            tests nor installed packages. It is about 12 MB, and differs from Python to Python.
        pattern: of the names of the files in a folder, such as "*.txt".
        in_memory: bytes; what is larger is mapped from a file.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if there is too little in it to hold something out.
    """
    if place is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        return _of_folder(root, _files(root, "*.py", SKIPPED), in_memory)
    place = place.expanduser()
    if place.is_dir():
        return _of_folder(place, _files(place, pattern, ()), in_memory)
    if not place.is_file():
        raise FileNotFoundError(
            f"there is no file or folder {place}; name one that is there: --workload.text PATH, or "
            "None for the standard library of this Python."
        )
    size = place.stat().st_size
    kept = int(size * HELD_OUT)
    if not kept:
        raise ValueError(f"{place} holds {size} bytes, too few to hold some out.")
    content = np.memmap(place, np.uint8, "r")
    return Text(content[: size - kept], content[size - kept :])


def pieces(content: np.ndarray, length: int) -> np.ndarray:
    """Bytes cut into pieces of one length, (n, length), on the same memory; the rest is left out.

    Example:
        >>> pieces(np.frombuffer(b"abcdefg", np.uint8), 3).tobytes()
        b'abcdef'
    """
    return np.asarray(content)[: len(content) // length * length].reshape(-1, length)


def held_out(names: Iterable[str]) -> set[str]:
    """Those whose hash is among the lowest twentieth; of two names or more one at least, not all.

    Example:
        >>> sorted(held_out(f"{number}.py" for number in range(40)))
        ['27.py', '35.py', '8.py']
    """
    shares = {name: _share(name) for name in names}
    order = sorted(shares, key=shares.__getitem__)
    count = sum(share < HELD_OUT for share in shares.values())
    return set(order[: max(1, min(count, len(order) - 1))])


def _share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _files(root: Path, pattern: str, skipped: Sequence[str]) -> list[str]:
    """The paths of a folder's files within it, in order."""
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [each for each in folders if each not in skipped and each[0] != "."]
        for name in names:
            path = Path(folder, name)
            if name[0] != "." and fnmatch.fnmatchcase(name, pattern) and path.is_file():
                found.append(path.relative_to(root).as_posix())
    return sorted(found)


def _of_folder(root: Path, names: Sequence[str], in_memory: int) -> Text:
    if len(names) < 2:
        raise ValueError(
            f"{root} holds {len(names)} files of that pattern; some are trained on and others are "
            "held out, so give a folder with two or more, or a single file."
        )
    held = held_out(names)
    sides = [[name for name in names if (name in held) is side] for side in (False, True)]
    if sum((root / name).stat().st_size for name in names) > in_memory:
        return _mapped(root, names, sides)
    seen: set[bytes] = set()
    train, kept = (b"".join(_contents(root, side, seen)) for side in sides)
    return Text(np.frombuffer(train, np.uint8), np.frombuffer(kept, np.uint8))


def _contents(root: Path, names: Iterable[str], seen: set[bytes]) -> Iterator[bytes]:
    """What each file holds, and the byte after it; nothing for what has been seen."""
    for name in names:
        content = (root / name).read_bytes()
        digest = hashlib.sha256(content).digest()
        if content and digest not in seen:
            seen.add(digest)
            yield content
            yield AFTER


def _mapped(root: Path, names: Sequence[str], sides: Sequence[Sequence[str]]) -> Text:
    """The flat file of a folder, which is written unless it is there for these very files."""
    stats = [(name, (root / name).stat()) for name in names]
    facts = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    known = hashlib.sha256(json.dumps([str(root.resolve()), HELD_OUT, facts]).encode()).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "jax_ssp" / "text"
    flat, about = folder / f"{known[:32]}.bin", folder / f"{known[:32]}.json"
    if not about.is_file() or sum(_sizes(about)) != _size(flat):
        folder.mkdir(parents=True, exist_ok=True)
        _write(flat, about, root, sides)
    train = _sizes(about)[0]
    content = np.memmap(flat, np.uint8, "r")
    return Text(content[:train], content[train:])


def _write(flat: Path, about: Path, root: Path, sides: Sequence[Sequence[str]]) -> None:
    """Each file in one step, the one that says that all is there as the last."""
    temporary = flat.with_name(f".{flat.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            seen: set[bytes] = set()
            sizes = [_append(file, _contents(root, side, seen)) for side in sides]
        os.replace(temporary, flat)
    finally:
        temporary.unlink(missing_ok=True)
    temporary.write_text(json.dumps({"train": sizes[0], "held_out": sizes[1]}))
    os.replace(temporary, about)


def _append(file: IO[bytes], contents: Iterable[bytes]) -> int:
    return sum(file.write(content) for content in contents)


def _sizes(about: Path) -> tuple[int, int]:
    try:
        sizes = json.loads(about.read_text())
        return int(sizes["train"]), int(sizes["held_out"])
    except (ValueError, KeyError, TypeError):  # damaged: it is written anew
        return 0, 0


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
