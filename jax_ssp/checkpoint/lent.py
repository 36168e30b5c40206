"""The folder of a run that another process carries out: that one has it, and writes into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax_ssp.checkpoint.run_folder import RunFolder
from jax_ssp.failures import in_words

SAID = ("summary", "saved_in", "problems", "facts")


class Borrowed(RunFolder):
    """A folder that is written in this process for another one: all of it, its summary too."""

    def on_result(self, result: Any, error: BaseException | None) -> None:
        if self.began:
            self.finish(result, None if error is None else in_words(error))

    def said(self) -> dict[str, Any]:
        """What who has lent it is to know."""
        return {name: getattr(self, name) for name in SAID}


class Lent(NamedTuple):
    """What another process makes a folder of that is lent to it.

    Attributes:
        path, config, called, finishes: of a `RunFolder`.
    """

    path: Path
    config: Mapping[str, Any]
    called: str
    finishes: bool

    @classmethod
    def of(cls, folder: RunFolder) -> Lent:
        """A folder before its run begins, which is then to be lent by `lend`.

        Raises:
            ValueError: if a run was begun in it already.
        """
        if folder.began:
            raise ValueError(f"{folder.path} holds a run already; make another `RunFolder`.")
        return cls(folder.path, dict(folder.config), folder.called, folder.finishes)

    def borrowed(self) -> Borrowed:
        """The folder, which is now this process's.

        Raises:
            ValueError: if another process is writing a run there.
        """
        folder = Borrowed(self.path, self.config, called=self.called)
        folder.finishes = self.finishes
        return folder


def lend(folder: RunFolder) -> None:
    """Let another process have it: it is nobody's until then."""
    folder.close()
    folder.lent = True
