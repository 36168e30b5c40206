"""From a config file and the words after it on the command line to experiments.

A config file is imported as a module; tyro types the overrides of its fields, and names such as
`--policy KSync` or `--policy my_module:Mine` put one part in place of another (see `named_parts`).
What is wrong with any of it is a `UsageError`.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from jax_ssp import checks
from jax_ssp.cli.named_faults import with_faults
from jax_ssp.cli.several import grouped, settings
from jax_ssp.cli.sizes import sized
from jax_ssp.cli.typed import RunOptions, Typed
from jax_ssp.cli.usage import UsageError, their_errors, usage_errors

if TYPE_CHECKING:
    from jax_ssp.cli.named_parts import Asked, OwnParts
    from jax_ssp.training.experiment import Experiment


class Chosen(NamedTuple):
    """A run that the command line asks for.

    Attributes:
        experiment: what is run.
        index: of the file's experiments, the one that it is made from.
        overrides: the words that make it from that one.
    """

    experiment: Experiment
    index: int
    overrides: list[str]


def parsed(
    file: Path, overrides: list[str], source: bytes | None = None, asked: Asked | None = None
) -> tuple[list[Experiment], RunOptions]:
    """The experiments of a config file with the overrides applied to each, and `run`'s options.

    Args:
        file: the config file.
        overrides: the words after it.
        source: what it says, where that has been read already.
        asked: before any other file is executed that the overrides name; None where all is trusted.
    """
    runs, options = chosen(file, overrides, source, asked)
    return [each.experiment for each in runs], options


def chosen(
    file: Path,
    overrides: list[str],
    source: bytes | None = None,
    asked: Asked | None = None,
    only: int | None = None,
) -> tuple[list[Chosen], RunOptions]:
    """Like `parsed`, and how each experiment was made.

    Args:
        file, overrides, source, asked: as those of `parsed`.
        only: the index of the one of the file's experiments that is asked for; by default all.
    """
    from jax_ssp.cli.named_parts import OwnParts
    from jax_ssp.training.alternatives import alternatives

    module = _loaded(file, source)
    own = OwnParts(file, module, imported, asked)
    if asked is None:
        found_from(Path.cwd())
    name = "get_sweep" if hasattr(module, "get_sweep") else "get_config"
    size = sized(getattr(module, name), overrides)
    configs = _configs(file, name, size.get)
    kinds = [f"--{part.replace('_', '-')}" for part in alternatives()]
    about = str(module.__doc__ or "").split("\n\n")[0]
    typed = Typed(file, f"{about}\n\n{size.about}" if size.about else about, kinds)
    runs: list[Chosen] = []
    options = RunOptions()
    for index, config in enumerate(configs):
        if only not in (None, index):
            continue
        placed = functools.partial(_with_kinds, config, own=own)
        for setting in settings(
            config,
            size.rest,
            kinds,
            lambda words, placed=placed: placed(words)[0],
            lambda config, words: typed.takes(*with_faults(config, words, own)),
        ):
            experiment, options = typed(*placed(setting.words))
            words = setting.words
            if setting.values:
                name = ", ".join([experiment.name, *setting.values])
                experiment, words = replace(experiment, name=name), _named(words, name)
            runs.append(Chosen(experiment, index, [*size.words, *words]))
    _check_distinct(configs, runs)
    return runs, options


def _named(words: list[str], name: str) -> list[str]:
    """Overrides that give a run this name too."""
    others = [each for each in grouped(words) if each.flag != "--name"]
    return [*(word for each in others for word in each.words()), f"--name={name}"]


def _configs(file: Path, name: str, get: Any) -> Sequence[Experiment]:
    """What the function of this name in a config file gives, at least one experiment."""
    from jax_ssp.training.experiment import Experiment

    if not callable(get) or not _takes_nothing(get):
        got = checks.shown(get)
        raise UsageError(f"{file}: `{name}` must be a function without arguments, got {got}")
    with their_errors(file):
        configs = get() if name == "get_sweep" else [get()]
    if not isinstance(configs, list | tuple):
        got = checks.shown(configs)
        raise UsageError(f"{file}: `get_sweep()` must give a list of Experiments, got {got}")
    if not configs:
        raise UsageError(f"{file}: `get_sweep()` gives no experiments")
    experiments: list[Experiment] = []
    for config in configs:
        if not isinstance(config, Experiment):
            raise UsageError(f"{file} must give a jax_ssp.Experiment, got {checks.shown(config)}")
        with usage_errors():
            config.checked_fields()
        experiments.append(config)
    return experiments


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # nobody knows
        return True
    return True


def _with_kinds(
    config: Experiment, overrides: list[str], own: OwnParts
) -> tuple[Experiment, list[str]]:
    """The experiment with the kinds of parts that the overrides name, and the other overrides."""
    from jax_ssp.training.alternatives import alternatives

    kinds = alternatives(config.runtime)
    parts = {f"--{part.replace('_', '-')}": part for part in kinds}
    chosen: dict[str, Any] = {}
    rest: list[str] = []
    words = iter(overrides)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in parts:
            rest.append(word)
            continue
        part = parts[flag]
        value = value if equals else next(words, "")
        chosen[part] = _own(part, value, own) or _kind(flag, value, kinds[part], own.names(part))
    for part in kinds:  # in this order: a runtime before its delay
        if part not in chosen and any(word.startswith(f"--{part}.") for word in rest):
            implied = _implied(config, part, kinds[part])
            chosen |= {} if implied is None else {part: implied()}
        if part in chosen:
            with usage_errors():
                config = _replaced(config, part, chosen[part])
    return with_faults(config, rest, own)


def _implied(
    config: Experiment, part: str, kinds: Mapping[str, Callable[[], Any]]
) -> Callable[[], Any] | None:
    """What a part is that is not there, where a field of it is given and it can be one thing."""
    owner: Any = functools.reduce(getattr, part.split(".")[:-1], config)
    made = [make for name, make in kinds.items() if name != "None"]
    absent = getattr(owner, part.split(".")[-1], owner) is None
    return made[0] if absent and len(made) == 1 else None


def _own(part: str, value: str, own: OwnParts) -> Any:
    """The part of the user's own that this word stands for; None if it is no name of one."""
    return own.named(part, value) if ":" in value or value in own.names(part) else None


def _kind(flag: str, value: str, named: Mapping[str, Callable[[], Any]], own: Sequence[str]) -> Any:
    """What this word stands for after this flag; `own` are names that the file adds."""
    names = {name.lower(): name for name in named}
    if value.lower() in names:
        return named[names[value.lower()]]()
    if flag == "--local-steps" and value.isdecimal():
        return int(value)
    every = f"{', '.join((*own, *named))}, or module:Name of your own"
    if not value or value.startswith("--"):
        got = repr(value) if value else "nothing"
        raise UsageError(f"{flag} needs a name after it, one of {every}; got {got}")
    names |= {name.lower(): name for name in own}
    near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    raise UsageError(f"{flag} must be one of {every}, got {value!r}{hint}")


def _replaced(whole: Any, path: str, part: Any) -> Any:
    """A dataclass with another part at a path such as `policy` or `runtime.delay`."""
    name, _, rest = path.partition(".")
    return replace(whole, **{name: _replaced(getattr(whole, name), rest, part) if rest else part})


def _check_distinct(before: Sequence[Experiment], after: Sequence[Chosen]) -> None:
    """Raise `UsageError` if overrides made runs of a sweep the same, but for their names."""
    same: dict[str, list[int]] = {}
    for number, run in enumerate(after):
        same.setdefault(_facts(run.experiment), []).append(number)
    for runs in same.values():
        named = [
            f"{number} ({after[number].experiment.name!r}, seed {after[number].experiment.seed})"
            for number in runs
        ]
        told = f"with these overrides runs {' and '.join(named)} are the same experiment"
        if len({_facts(before[after[number].index]) for number in runs}) > 1:
            raise UsageError(
                f"{told}; a sweep's own fields cannot be overridden for all: edit the file"
            )
        if len({after[number].index for number in runs}) < len(runs):
            raise UsageError(f"{told}; give each value of a flag once")


def _facts(experiment: Experiment) -> str:
    return repr({**experiment.describe(), "name": None})


def _loaded(file: Path, source: bytes | None) -> ModuleType:
    """The module of a config file."""
    with their_errors(file):
        module = imported(file, source)
    if not hasattr(module, "get_config") and not hasattr(module, "get_sweep"):
        raise UsageError(
            f"{file} has no `get_config()`; a config file defines `def get_config() -> "
            "jax_ssp.Experiment` (or `get_sweep() -> list[Experiment]`)"
        )
    return module


def imported(file: Path, source: bytes | None = None, name: str | None = None) -> ModuleType:
    """The module of a file; what it imports is found from the folder of its package.

    It is compiled from `source`, or from what the file says now: never from a compiled copy.
    """
    if not file.is_file():
        raise UsageError(f"there is no config file {file}")
    sys.path.insert(0, str(root_of(file)))
    spec = importlib.util.spec_from_file_location(name or f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their annotations up there
    source = file.read_bytes() if source is None else source
    exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)
    return module


def found_from(folder: Path) -> None:
    """Modules in this folder are found too, after all others."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def root_of(file: Path) -> Path:
    """The folder from which a file's package is imported."""
    root = file.resolve().parent
    while (root / "__init__.py").exists():
        root = root.parent
    return root
