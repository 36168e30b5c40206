"""Faults of the user's own by name, among those that are said in words.

`--runtime.faults crash:2:5 my_module:Storm` gives two: a `Crash`, and what that name stands for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jax_ssp.cli.several import grouped
from jax_ssp.cli.usage import usage_errors

if TYPE_CHECKING:
    from jax_ssp.cli.named_parts import OwnParts
    from jax_ssp.training.experiment import Experiment

FLAG, PART = "--runtime.faults", "runtime.faults"


def with_faults(
    config: Experiment, words: list[str], own: OwnParts
) -> tuple[Experiment, list[str]]:
    """The experiment with the faults that the words name, and the other words.

    Args:
        config: the experiment.
        words: overrides. Faults without one of the user's own among them are left to others.
        own: what names stand for.
    """
    groups = grouped(words)
    named = [each for each in groups if each.flag == FLAG and _any_own(each.values, own)]
    if not named:
        return config, words
    faults = _faults(named[-1].values, own)
    runtime: Any = config.runtime
    with usage_errors():
        config = replace(config, runtime=replace(runtime, faults=faults))
    rest = [word for each in groups if each.flag != FLAG for word in each.words()]
    return config, rest


def _any_own(values: Sequence[str], own: OwnParts) -> bool:
    return any(_is_own(each, own) for each in values)


def _is_own(word: str, own: OwnParts) -> bool:
    """Whether a word names something of the user's own.

    A kind of faults has a number behind it (crash:2), or names of fields (kill:phase=save).
    """
    return bool(re.fullmatch(r"[^:=]+:[A-Za-z_][\w.]*", word)) or word in own.names(PART)


def _faults(values: Sequence[str], own: OwnParts) -> tuple[Any, ...]:
    from jax_ssp.runtimes.faults.words import from_words

    faults: list[Any] = []
    for word in values:
        if _is_own(word, own):
            faults.append(own.named(PART, word))
            continue
        with usage_errors():
            faults += from_words([word])
    return tuple(faults)
