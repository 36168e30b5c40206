"""Faults as a field of a config: words on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from tyro.constructors import PrimitiveConstructorSpec

from jax_ssp.runtimes.faults.base import Fault
from jax_ssp.runtimes.faults.schedule import Schedule
from jax_ssp.runtimes.faults.words import from_words, in_words


def _are_faults(value: Any) -> bool:
    return isinstance(value, tuple | list)


_WORDS: Any = PrimitiveConstructorSpec(
    nargs="*",
    metavar="[KIND:WORKER:CLOCK ...]",
    instance_from_str=from_words,
    is_instance=_are_faults,
    str_from_instance=in_words,
)
Faults: TypeAlias = Annotated[Sequence[Fault | Schedule], _WORDS]
