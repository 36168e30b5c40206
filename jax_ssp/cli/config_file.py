"""From a config file and the words after it on the command line to experiments.

A config file is imported as a module; tyro types the overrides of its fields, and names such as
`--policy KSync` or `--policy my_module:Mine` put one part in place of another (see `named_parts`).
What is wrong with any of it is a `UsageError`.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

from jax_ssp import checks
from jax_ssp.cli.usage import UsageError, parser_ends, their_errors, usage_errors

if TYPE_CHECKING:
    from jax_ssp.cli.named_parts import Asked, OwnParts
    from jax_ssp.training.experiment import Experiment


@dataclass(frozen=True)
class RunOptions:
    """The options of `run` that are not the experiment's."""

    workdir: Path | None = None
    """The run's folder; by default runs/<name>-<time>."""
    dry_run: bool = False
    """Compile one clock on each device, print its memory and time, and stop."""


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
    import tyro

    from jax_ssp.cli.named_parts import OwnParts

    bare = tyro.conf.arg(name="")  # fields without a prefix: `--policy.bound`, `--workdir`
    module = _loaded(file, source)
    own = OwnParts(file, module, imported, asked)
    if asked is None:
        found_from(Path.cwd())
    configs = _configs(file, module)
    about = str(module.__doc__ or "").split("\n\n")[0]
    parsed: list[Any] = []
    for config in configs:
        chosen, words = _with_kinds(config, overrides, own)
        kinds = {"experiment": type(config), "options": RunOptions}  # whose fields are options
        parts = [(name, Annotated[kind, bare]) for name, kind in kinds.items()]
        arguments: Any = make_dataclass("arguments", parts, frozen=True)
        with parser_ends(), usage_errors():
            parsed.append(
                tyro.cli(
                    arguments,
                    prog=f"jax-ssp run {file}",
                    description=f"{about}\n\n{_KINDS}",
                    default=arguments(chosen, RunOptions()),
                    args=words,
                    config=(tyro.conf.AvoidSubcommands,),
                )
            )
    experiments = [each.experiment for each in parsed]
    _check_distinct(configs, experiments)
    return experiments, parsed[0].options


def _configs(file: Path, module: ModuleType) -> Sequence[Experiment]:
    """What a config file gives, at least one experiment."""
    from jax_ssp.training.experiment import Experiment

    name = "get_sweep" if hasattr(module, "get_sweep") else "get_config"
    get = getattr(module, name)
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


_KINDS = (
    "--policy, --runtime, --runtime.delay, --local-steps, --server-tx, --delta-tx, --delta-wire, "
    "--snapshot-wire and --adopt take a name too: --policy KSync puts that policy in place of the "
    "file's, at its defaults (but --runtime Virtual keeps the file's num_workers, delay and seed); "
    "--policy.k 2 after it sets a field of it. One of your own is named module:Name or "
    "folder/file.py:Name, or by its name alone if this file defines or imports it."
)


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
        if part in chosen:
            with usage_errors():
                config = _replaced(config, part, chosen[part])
    return config, rest


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


def _check_distinct(before: Sequence[Experiment], after: Sequence[Experiment]) -> None:
    """Raise `UsageError` if overrides made runs of a sweep the same, but for their names."""
    same: dict[str, list[int]] = {}
    for index, experiment in enumerate(after):
        same.setdefault(_facts(experiment), []).append(index)
    for runs in same.values():
        if len({_facts(before[index]) for index in runs}) > 1:
            named = [f"{i} ({after[i].name!r}, seed {after[i].seed})" for i in runs]
            raise UsageError(
                f"with these overrides runs {' and '.join(named)} are the same experiment; a "
                "sweep's own fields cannot be overridden for all: edit the file"
            )


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
