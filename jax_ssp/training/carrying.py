"""An error that ends a run, and carries what there is of its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax

from jax_ssp.failures import failed, in_words, joined, note
from jax_ssp.runtimes.observing import Observers
from jax_ssp.training.result import Result


def carrying(
    error: BaseException, result: Callable[[], Result], observers: Observers | None = None
) -> BaseException:
    """An error that ended a run, with what there is of the result as its attribute `result`.

    The observers are told of both.
    """
    error = failed(error)
    try:
        kept = result()
        try:
            jax.block_until_ready(kept.params)
        except Exception as lost:
            kept = replace(kept, params=None)
            note(error, f"the parameters are lost: {in_words(lost)}")
    except Exception as lost:
        note(error, f"nothing is left of the run: {in_words(lost)}")
        return error
    if observers is not None:
        try:
            observers.tell("on_result", kept, error)
        except BaseException as raised:  # given back
            error = joined(error, raised)
    try:
        error.result = kept  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:  # such as a frozen dataclass
        error, cause = RuntimeError(f"the run was ended by {in_words(error)}"), error
        error.__cause__ = cause
        error.result = kept  # pyright: ignore[reportAttributeAccessIssue]
    note(
        error,
        f"the run ended {kept.status} after {kept.updates} updates; this error's `.result` is the "
        f"`Result` up to there, at version {kept.version}",
    )
    return error
