"""What the processes of the workers of a run on Ray are just now, by their titles."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["worker", "on its way", "being prepared", "spare"]

ON_ITS_WAY = {"become", "go_on_at", "come_again", "compile", "take_up", "inherit", "name"}
PREPARED = {"__init__", "rest", "prepare"}
LOOK_SECONDS = 0.02


class Roles:
    """Tells workers that have a number from processes that are on their way to one, and spares.

    Ray has the title of a process say what it does. One that does nothing is what it was seen to be
    before, and a spare if that was to be prepared: so they are to be looked at all the time.
    Processes of other clusters are left alone.

    Args:
        driver: the process that has started the cluster.

    Attributes:
        titles: of all processes of the cluster, by their numbers, when they were last looked at.
    """

    def __init__(self, driver: int) -> None:
        self._driver = driver
        self.titles: dict[int, str] = {}
        self._seen: dict[int, Role] = {}

    def look(self) -> dict[int, Role]:
        """The roles of processes that are workers, or may become one."""
        self.titles = _titles(self._driver)
        self._seen = {each: role for each, role in self._seen.items() if each in self.titles}
        roles: dict[int, Role] = {}
        for number, title in self.titles.items():
            kind, _, method = title.partition(".")
            if kind == "There":
                roles[number] = self._role(number, method)
        return roles

    def _role(self, number: int, method: str) -> Role:
        if method == "prepare":
            self._seen[number] = "spare"
        elif method and method not in PREPARED:
            self._seen[number] = "on its way" if method in ON_ITS_WAY else "worker"
        begins = method in PREPARED or number not in self._seen
        return "being prepared" if begins else self._seen[number]

    def doing(self, phase: str) -> list[int]:
        """The processes that did this when they were last looked at; all of them where it ends."""
        return [number for number, title in self.titles.items() if title.startswith(phase)]

    def watch(self, seconds: float) -> dict[int, Role]:
        """Look at them for so long; gives what they are then."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.look()
            time.sleep(min(left, LOOK_SECONDS))
        return self.look()


def _titles(driver: int) -> dict[int, str]:
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().rstrip(b"\0 ").decode()
            # An actor is started by the node's own process, and that by the driver.
            if title.startswith("ray::") and _parent(_parent(int(folder.name))) == driver:
                found[int(folder.name)] = title.removeprefix("ray::")
        except (OSError, UnicodeDecodeError):  # it has ended
            continue
    return found


def _parent(number: int) -> int:
    """The process that has started one."""
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
