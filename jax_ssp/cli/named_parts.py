"""Parts of the user's own by name, in place of those that a config file gives.

`module:Name` names what a module holds that can be imported, also from the folder of the config
file and from the working folder; `folder/file.py:Name` what a file holds; a bare name what the
config file itself defines or imports. Where a run is repeated, the names come from its folder: then
each file is asked for before it is executed, and nothing is called that does not say it is a part.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import optax

from jax_ssp import checks
from jax_ssp.cli.part_kinds import KINDS
from jax_ssp.cli.usage import UsageError, their_errors

Importer = Callable[[Path, None, str], ModuleType]
Asked = Callable[[Path], object]
"""Raises `UsageError` if a file must not be executed."""


class OwnParts:
    """What names of the user's own stand for, beside one config file.

    Args:
        file: the config file.
        config: its module.
        load: makes a module of a file, of what it says now, under a name.
        asked: asked before a file is executed; None where the user has typed all names.
    """

    def __init__(
        self, file: Path, config: ModuleType, load: Importer, asked: Asked | None = None
    ) -> None:
        self._file, self._load, self._asked = file, load, asked
        self._modules: dict[Path, ModuleType] = {file.resolve(): config}
        self._config = config

    def names(self, part: str) -> list[str]:
        """What the config file defines or imports of its own that could be this part."""
        return self._fitting(self._config, part)

    def named(self, part: str, text: str) -> Any:
        """The part that a text such as `module:Name` stands for, at its defaults.

        Raises:
            UsageError: if there is none; it says what cannot be found, and what is near.
        """
        where, _, name = text.rpartition(":")
        flag = f"--{part.replace('_', '-')} {text}"
        if where and name:
            module = self._module(flag, where)
        elif text.isidentifier():
            module, name = self._config, text
        else:
            raise UsageError(
                f"{flag}: a part of your own is named `module:Name` or `folder/file.py:Name`"
            )
        value = _found(flag, module, name, self._fitting(module, part))
        made = KINDS[part].made(value)
        if made is None:
            near = _did_you_mean(name, self._fitting(module, part))
            raise UsageError(f"{flag}: it must be {KINDS[part].what}, got {_shown(value)}{near}")
        self._ask(flag, _file_of(getattr(value, "__module__", type(value).__module__)))
        with their_errors(Path(getattr(module, "__file__", None) or where)):
            return made()

    def _fitting(self, module: ModuleType, part: str) -> list[str]:
        return [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and not _is_ours(value) and KINDS[part].made(value)
        ]

    def _module(self, flag: str, where: str) -> ModuleType:
        if where.endswith(".py"):
            return self._of_file(flag, where)
        if not all(each.isidentifier() for each in where.split(".")):
            raise UsageError(f"{flag}: {where} is neither a module's name nor a file's (.py)")
        parts = where.split(".")
        for count in range(1, len(parts) + 1):
            self._import(flag, ".".join(parts[:count]))
        return sys.modules[where]

    def _import(self, flag: str, name: str) -> None:
        """Import a module whose package is imported already."""
        if name in sys.modules and sys.modules[name].__spec__ is not None:
            spec = sys.modules[name].__spec__
        else:
            importlib.invalidate_caches()
            try:
                spec = importlib.util.find_spec(name)
            except (ModuleNotFoundError, ValueError):  # its package is a module, or a program
                spec = None
        if spec is None:
            raise UsageError(self._no_module(flag, name))
        if spec.has_location and spec.origin:
            self._ask(flag, Path(spec.origin))
        with their_errors(Path(spec.origin or name)):
            importlib.import_module(name)

    def _no_module(self, flag: str, name: str) -> str:
        package, _, last = name.rpartition(".")
        if package:
            places = [Path(each) for each in getattr(sys.modules[package], "__path__", [])]
            looked = f"in {package}"
        else:
            places = [self._file.resolve().parent, Path.cwd()]
            folders = ", in ".join(map(str, dict.fromkeys(places)))
            looked = f"in {folders}, or among what is installed"
        near = _did_you_mean(last, {each for place in places for each in _modules_in(place)})
        return f"{flag}: there is no module {last} {looked}{near}"

    def _of_file(self, flag: str, where: str) -> ModuleType:
        places = [Path(where), self._file.parent / where]
        found = next((each.resolve() for each in places if each.is_file()), None)
        if found is None:
            folder = places[0].parent
            near = _did_you_mean(Path(where).name, [each.name for each in folder.glob("*.py")])
            raise UsageError(f"{flag}: there is no file {where}{near}")
        if found not in self._modules:
            self._ask(flag, found)
            same = sum(each.stem == found.stem for each in self._modules)
            with their_errors(found):
                name = f"part_{found.stem}" + (f"_{same}" if same else "")
                self._modules[found] = self._load(found, None, name)
        return self._modules[found]

    def _ask(self, flag: str, file: Path | None) -> None:
        if self._asked is None or file == self._file.resolve():
            return
        if file is None:
            raise UsageError(f"{flag}: nothing of it was called, since no file says what it is")
        self._asked(file)


def _found(flag: str, module: ModuleType, name: str, fitting: Iterable[str]) -> Any:
    value: Any = module
    for each in name.split("."):
        if not hasattr(value, each):
            near = _did_you_mean(name, fitting)
            raise UsageError(f"{flag}: {_shown(value)} has no {each}{near}")
        value = getattr(value, each)
    return value


def _is_ours(value: Any) -> bool:
    """Whether a class or a function is one of jax_ssp's, that a module has imported."""
    named = isinstance(value, type | FunctionType)
    return named and value.__module__.split(".")[0] == "jax_ssp"


def _file_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else Path(file).resolve()


def _shown(value: Any) -> str:
    if isinstance(value, ModuleType):
        return str(getattr(value, "__file__", value.__name__))
    if isinstance(value, optax.GradientTransformation):
        return "an optax transform; name the function that makes it"
    if isinstance(value, FunctionType):
        return f"the function {value.__name__}{inspect.signature(value)}"
    return checks.shown(value)


def _modules_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    files = [each.stem for each in folder.glob("*.py") if each.stem.isidentifier()]
    return files + [each.parent.name for each in folder.glob("*/__init__.py")]


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    known = sorted(set(names) - {name})
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there is {', '.join(known[:8])}" if 0 < len(known) <= 8 else ""
