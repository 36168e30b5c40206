"""Faults in words, as the command line takes them and the header of a tape names them.

crash:2:5                          a kind, its worker, and the clock
slow:1:2:seconds=0.5               what else it takes, by name
crash:2:at=30,back_after=5         at a time in place of a clock
kill:phase=save,nth=2              in a phase of the run
poisson:mtbf=30,kinds=crash+slow   drawn, with several kinds
"""

from __future__ import annotations

import builtins
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from typing import Any

from jax_ssp import checks
from jax_ssp.runtimes.faults.base import Fault
from jax_ssp.runtimes.faults.known import KINDS, known, name_of
from jax_ssp.runtimes.faults.schedule import Poisson, Schedule

_EXAMPLE = "A fault is a kind, a worker and a clock, such as crash:2:5, or slow:1:2:seconds=0.5"


def from_words(words: Iterable[str]) -> tuple[Fault | Schedule, ...]:
    """The faults that words say, a word each.

    Args:
        words: `KIND:WORKER:CLOCK`, and behind a further colon `name=value` for all else that a
            fault of that kind takes, with commas between.

    Raises:
        TypeError: if it is given something other than words.
        ValueError: naming the word and what is wrong with it.

    Example:
        >>> from_words(["crash:2:5", "slow:1:2:seconds=0.5", "kill:phase=save,nth=2"])
        (Crash(worker=2, clock=5), Slow(worker=1, clock=2, seconds=0.5), Kill(phase='save', nth=2))
    """
    given = checks.several("words", words, "a list of words, such as `crash:2:5`")
    return tuple(_from(f"words[{number}]", word) for number, word in enumerate(given))


def in_words(faults: Iterable[Fault | Schedule]) -> list[str]:
    """Faults as words, which `from_words` takes.

    Args:
        faults: of a run; what is not of this package is named by its class.

    Raises:
        TypeError: if it is given something other than faults.

    Example:
        >>> from jax_ssp.runtimes.faults import Crash
        >>> in_words([Crash(2, 5), Crash(1, at=30.0), Poisson(mtbf=30.0, kinds=("crash", "slow"))])
        ['crash:2:5', 'crash:1:at=30.0', 'poisson:mtbf=30.0,kinds=crash+slow']
    """
    given = checks.several("faults", faults, "a list of faults")
    for number, each in enumerate(given):
        must = "a fault, such as `ssp.faults.Crash(2, 5)`"
        checks.instance(f"faults[{number}]", each, (Fault, Schedule), must)  # pyright: ignore
    return list(map(_said, given))


def _from(place: str, word: Any) -> Fault | Schedule:
    word = checks.text(place, word)
    field = f"words: {word}"
    name, *parts = word.split(":")
    names = {**KINDS, "poisson": Poisson}
    kind: Any = names[known(field, name, names)]
    hints = typing.get_type_hints(kind)
    takes = [each for each in fields(kind) if each.init]
    places = [each.name for each in takes if not each.kw_only]
    given: dict[str, Any] = {}
    for number, part in enumerate(parts):
        pairs = [tuple(each.split("=", 1)) for each in part.split(",")] if "=" in part else None
        if pairs is None and (number >= len(places) or places[number] in given):
            raise ValueError(f"`{field}`: {part!r} stands for nothing. {_EXAMPLE}.")
        for pair in [(places[number], part)] if pairs is None else pairs:
            key = known_field(field, pair[0], [each.name for each in takes])
            if len(pair) < 2:
                raise ValueError(f"`{field}`: {key} has no value; write {key}=... . {_EXAMPLE}.")
            given[key] = _value(f"{field}: {key}", pair[1], hints[key])
    try:
        return kind(**given)
    except TypeError as error:
        missing = [e.name for e in takes if e.default is e.default_factory is MISSING]
        raise ValueError(f"`{field}` needs {', '.join(missing)}. {_EXAMPLE}.") from error
    except ValueError as error:
        raise ValueError(f"`{field}`: {error}") from error


def known_field(field: str, name: str, names: Sequence[str]) -> str:
    """The name of a field, as it is written here; ValueError if there is none."""
    found = name.strip().replace("-", "_")
    if found not in names:
        raise ValueError(f"`{field}` has no {name!r}; it takes {', '.join(names)}.")
    return found


def _value(field: str, text: str, hint: Any) -> Any:
    """The value of a field of this type that a text says."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                must = "an integer" if kind is int else "a number"
                raise ValueError(f"`{field}` must be {must}, got {text!r}.") from None
        if kind is BaseException:
            error = getattr(builtins, text, None)
            if not (isinstance(error, type) and issubclass(error, BaseException)):
                raise ValueError(
                    f"`{field}` must be an exception of Python such as OSError, got {text!r}."
                )
            return error("an injected fault")
    return text if str in kinds else text.split("+")


def _said(fault: Fault | Schedule) -> str:
    if not isinstance(fault, Fault | Poisson):
        return repr(fault)
    words = ["poisson" if isinstance(fault, Poisson) else name_of(type(fault))]
    if isinstance(fault, Fault):
        words += [str(each) for each in (fault.worker, fault.clock) if each is not None]
    given = [
        f"{each.name}={_text(getattr(fault, each.name))}"
        for each in fields(fault)
        if each.name not in ("worker", "clock")
        and _text(getattr(fault, each.name)) != _text(each.default)
    ]
    return ":".join([*words, *([",".join(given)] if given else [])])


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(value)
    return type(value).__name__ if isinstance(value, BaseException) else str(value)
