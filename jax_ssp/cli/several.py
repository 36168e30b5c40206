"""Several values after a flag: a sweep of their product.

`--policy.bound 0 1 3 --seed 0 1` makes six runs of each of the file's. A field that takes several
values itself keeps its meaning. `--policy BSP SSP --policy.bound 1 3` makes three: a field that
only some of the named parts have is set where it is there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from jax_ssp.cli.usage import UsageError

OPTIONS = ("--workdir", "--jobs")  # of the command, which takes one value for each


class Group(NamedTuple):
    """A flag and the words after it."""

    flag: str
    values: tuple[str, ...]

    def words(self) -> list[str]:
        return [each for each in (self.flag, *self.values) if each]

    @property
    def path(self) -> str:
        """Of the field."""
        return self.flag.removeprefix("--").replace("_", "-")


class Setting(NamedTuple):
    """One choice of values.

    Attributes:
        words: the overrides, one value for each flag that has several.
        values: what tells it from the others, such as `bound=3`; seeds are not among it.
    """

    words: list[str]
    values: list[str]


def settings(
    config: Any,
    words: Sequence[str],
    kinds: Collection[str],
    placed: Callable[[list[str]], Any],
    takes: Callable[[Any, list[str]], bool],
) -> list[Setting]:
    """Every choice of the values that flags have: of the names of parts first, then of fields.

    Args:
        config: the experiment.
        words: the overrides.
        kinds: the flags that put a part in place of another, which take one name.
        placed: words -> the experiment with the parts that they name.
        takes: (experiment, words) -> whether its fields take these words as they are.
    """
    groups = grouped(words)
    for group in groups:
        if group.flag in OPTIONS and len(group.values) > 1:
            raise UsageError(f"{group.flag} takes one value, got {' '.join(group.values)}")
    named = [each for each in groups if each.flag in kinds and len(each.values) > 1]
    choices = [
        _chosen(groups, dict(zip(named, values, strict=True)))
        for values in itertools.product(*(each.values for each in named))
    ]
    whole = [placed([word for each in chosen for word in each.words()]) for chosen in choices]
    every: list[Setting] = []
    for chosen, experiment in zip(choices, whole, strict=True):
        kept = [
            _full(each, experiment)
            for each in chosen
            if not _only_elsewhere(each, named, experiment, whole)
        ]
        varying = [
            each
            for each in kept
            if len(each.values) > 1
            and each.flag not in kinds
            and not takes(experiment, each.words())
        ]
        for values in itertools.product(*(each.values for each in varying)):
            run = _chosen(kept, dict(zip(varying, values, strict=True)))
            swept = {each.flag for each in (*named, *varying)}
            told = [each for each in run if each.flag in swept and each.path != "seed"]
            every.append(
                Setting([word for each in run for word in each.words()], _told(told, experiment))
            )
    return every


def grouped(words: Sequence[str]) -> list[Group]:
    """The words by flag; those before any have an empty one."""
    groups: list[Group] = []
    for word in words:
        if re.match(r"--|-[a-zA-Z]", word):
            flag, equals, value = word.partition("=")
            groups.append(Group(flag, (value,) if equals else ()))
        elif groups:
            groups[-1] = Group(groups[-1].flag, (*groups[-1].values, word))
        else:
            groups.append(Group("", (word,)))
    return groups


def _chosen(groups: Sequence[Group], values: dict[Group, str]) -> list[Group]:
    return [Group(each.flag, (values[each],)) if each in values else each for each in groups]


def _only_elsewhere(
    group: Group, named: Sequence[Group], experiment: Any, others: Sequence[Any]
) -> bool:
    """Whether this is a field of other parts than the one that was put here."""
    within = any(group.path.startswith(f"{each.path}.") for each in named)
    return within and not _has(experiment, group) and any(_has(each, group) for each in others)


def _has(experiment: Any, group: Group) -> bool:
    return group.path.replace(".no-", ".") in set(_paths(experiment))


def _full(group: Group, experiment: Any) -> Group:
    """The flag of a field by its whole path: `--workload.learning-rate` for `--learning-rate`."""
    if "." in group.flag or not group.flag.startswith("--"):
        return group
    paths = list(_paths(experiment))
    found = [path for path in paths if path.endswith(f".{group.path}")]
    if group.path in paths or not found:
        return group
    if len(found) > 1:
        which = " or ".join(f"--{path}" for path in found)
        raise UsageError(f"{group.flag} could be {which}: give one of them")
    return Group(f"--{found[0]}", group.values)


def _paths(part: Any, path: str = "") -> Iterator[str]:
    """The fields of an experiment and of its parts, as flags have them."""
    if is_dataclass(part):
        names = [column.name for column in fields(part) if column.init]
        inner = [(name, getattr(part, name)) for name in names]
    elif isinstance(part, tuple):
        inner = [(str(number), each) for number, each in enumerate(part)]
    else:
        return
    for name, value in inner:
        yield (whole := f"{path}.{name}".lstrip(".").replace("_", "-"))
        yield from _paths(value, whole)


def _told(groups: Sequence[Group], experiment: Any) -> list[str]:
    """What a name says of values: `SSP(bound=3)` of a policy, `batch_size=8` of other fields."""
    policy = [each for each in groups if each.path.startswith("policy.")]
    kind = next((each.values[0] for each in groups if each.path == "policy"), None)
    told: list[str] = []
    if policy or kind:
        kind = type(experiment.policy).__name__ if kind is None else kind.rpartition(":")[2]
        inner = [_equation(each, each.path.removeprefix("policy.")) for each in policy]
        told.append(f"{kind}({', '.join(inner)})" if inner else kind)
    others = [each for each in groups if each.path.partition(".")[0] != "policy"]
    last = [each.path.rpartition(".")[2] for each in others]
    for group, name in zip(others, last, strict=True):
        told.append(_equation(group, name if last.count(name) == 1 else group.path))
    return told


def _equation(group: Group, name: str) -> str:
    return f"{name.replace('-', '_')}={' '.join(group.values)}"
