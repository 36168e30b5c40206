"""A disk in memory: what was synced survives, of the rest what chance wants.

If a process dies, all that it has written is there still, up to where it died: in the middle of a
write, say. If the machine dies, what was not synced may be gone: of a file everything after its
last sync, or some of that; of a folder the newest names, from some point on, so that a file may
have its old name, or none.
"""

from __future__ import annotations

from collections.abc import Callable

from jax_ssp.testing.simulation.dice import Dice


class Died(BaseException):
    """The process is dead: nobody catches this but the simulation."""


class _File:
    __slots__ = ("content", "synced")

    def __init__(self) -> None:
        self.content = bytearray()
        self.synced = 0


class Disk:
    """Files by name.

    Args:
        before: called before each operation that changes something; if it raises `Died`, a write
            has come to the disk in part.
        dice: draws how much.
    """

    def __init__(self, before: Callable[[], None], dice: Dice) -> None:
        self._before = before
        self._dice = dice
        self._names: dict[str, _File] = {}
        self._safe: dict[str, _File] = {}  # the names that a dead machine has
        self._news: list[dict[str, _File]] = []  # the names after each change since
        self.operations = 0

    def append(self, name: str, content: bytes) -> None:
        """Add to a file, which is made if need be."""
        if name not in self._names:
            self._names[name] = _File()
            self._changed()
        file = self._names[name]
        try:
            self._operation()
        except Died:
            file.content += content[: self._dice.below(len(content) + 1)]
            raise
        file.content += content

    def sync(self, name: str) -> None:
        """What is in the file stays."""
        self._operation()
        file = self._names[name]
        file.synced = len(file.content)

    def sync_names(self) -> None:
        """The names that files have now stay."""
        self._operation()
        self._safe = dict(self._names)
        self._news.clear()

    def rename(self, old: str, new: str) -> None:
        """A file has another name now; one that had it is gone."""
        self._operation()
        self._names[new] = self._names.pop(old)
        self._changed()

    def remove(self, name: str) -> None:
        """A file is gone."""
        self._operation()
        del self._names[name]
        self._changed()

    def truncate(self, name: str, size: int) -> None:
        """A file ends there."""
        self._operation()
        file = self._names[name]
        del file.content[size:]
        file.synced = min(file.synced, size)

    def read(self, name: str) -> bytes:
        """What is in a file; empty if there is none."""
        file = self._names.get(name)
        return b"" if file is None else bytes(file.content)

    def names(self) -> list[str]:
        """Of all files, in order."""
        return sorted(self._names)

    def fail(self) -> None:
        """The machine is dead, and is started again."""
        if self._news:
            at = self._dice.below(len(self._news) + 1)
            self._names = dict(self._news[at - 1] if at else self._safe)
        for file in self._names.values():
            lost = len(file.content) - file.synced
            if lost:
                del file.content[file.synced + self._dice.below(lost + 1) :]
                file.synced = len(file.content)
        self._safe = dict(self._names)
        self._news.clear()

    def flip(self, name: str) -> None:
        """One bit of a file is another one."""
        content = self._names[name].content
        if content:
            content[self._dice.below(len(content))] ^= 1 << self._dice.below(8)

    def _changed(self) -> None:
        self._news.append(dict(self._names))

    def _operation(self) -> None:
        self.operations += 1
        self._before()
