"""Follows a page of the documentation to the letter: writes its files, and makes its changes.

A block of Python belongs to the last file that the text before it names in backquotes, and is that
whole file. A block of `diff` is a change of the last file named: its lines that begin with a space
are there, one below the other, and those that begin with a plus come between them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """What a page says of a file.

    Attributes:
        path: of the file, as the page has it.
        text: of the file, or the change.
        is_change: which of the two.
    """

    path: str
    text: str
    is_change: bool


def blocks(section: str, page: str = "docs/extending.md") -> list[Block]:
    """What a section says, without the sections below it."""
    text = (ROOT / page).read_text()
    begin = re.search(rf"^#+ {re.escape(section)}\n", text, re.MULTILINE)
    assert begin, f"{page} has no section {section}"
    text = re.split(r"^#+ ", text[begin.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    found, at = [], 0
    for block in BLOCK.finditer(text):
        names = re.findall(r"`([\w/]+\.py)`", text[at : block.start()])
        assert names, f"{page} does not say which file this is: {block[2]}"
        found.append(Block(names[-1], block[2], block[1] == "diff"))
        at = block.end()
    return found


def follow(found: list[Block], root: Path) -> None:
    """Write what is a file, change what is a change."""
    for path, text, is_change in found:
        file = root / path
        if is_change:
            file.write_text(changed(file.read_text(), text, path))
        else:
            assert not file.exists(), f"{path} is there already"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


def changed(whole: str, change: str, path: str = "") -> str:
    """The text with a change made.

    Example:
        >>> changed("a\\nb\\n", " a\\n+new\\n b\\n")
        'a\\nnew\\nb\\n'
    """
    lines = change.splitlines(keepends=True)
    assert {line[0] for line in lines} <= {" ", "+", "-"}, change
    before = "".join(line[1:] for line in lines if line[0] != "+")
    after = "".join(line[1:] for line in lines if line[0] != "-")
    assert whole.count(before) == 1, f"{path} has this {whole.count(before)} times:\n{before}"
    return whole.replace(before, after)


def house(root: Path) -> Path:
    """A copy of the package and its tests, to be changed."""
    for folder in ("jax_ssp", "tests", "docs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, root)
    return root


def python(root: Path, *words: str) -> str:
    """What a Python says that imports the copy; it must end well."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def passed(root: Path, chosen: str, *files: str) -> int:
    """How many tests of these files pass in the copy, of those whose name has the word."""
    all_of_them = "-m", "not timed and not gpu"  # also those that the quick loop leaves to CI
    words = "-q", "-x", "-p", "no:cacheprovider", *all_of_them, "-k", chosen
    said = python(root, "-m", "pytest", *words, *files)
    count = re.search(r"(\d+) passed", said)
    assert count, said
    return int(count[1])
