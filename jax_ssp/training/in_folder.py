"""A run that has a folder: all that comes of it is saved there, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jax_ssp.failures import in_a_word, note, note_traceback
from jax_ssp.files import say
from jax_ssp.report.environment import environment
from jax_ssp.training.own_parts import own_parts

if TYPE_CHECKING:
    from jax_ssp.checkpoint.run_folder import RunFolder
    from jax_ssp.training.experiment import Experiment
    from jax_ssp.training.result import Result


def known_of(experiment: Experiment) -> dict[str, Any]:
    """What a run's `config.json` says of it: what is run, with which parts, and where."""
    return {
        "environment": environment(),
        "experiment": experiment.describe(),
        "parts": own_parts(experiment),
    }


def saved(folder: RunFolder, train: Callable[[], Result]) -> tuple[Result, dict[str, Any]]:
    """Train, and save what came of it; gives the result and its summary.

    Args:
        folder: of the run, which is among those that `train` tells of it.
        train: runs it.

    Raises:
        BaseException: what `train` raised; what it leaves of the run is saved too, and its
            traceback in `error.txt`.
    """
    folder.finishes = False  # but here
    try:
        result = train()
    except BaseException as error:
        _save_what_there_is(error, folder)
        raise
    return result, folder.finish(result)


def _save_what_there_is(error: BaseException, folder: RunFolder) -> None:
    """Save what an error that ended a run leaves of it."""
    result: Result | None = getattr(error, "result", None)
    if not folder.began:
        return
    if result is not None:
        summary = folder.finish(result, in_a_word(error))
        say(f"{result.updates} updates up to the {summary['status']} end are in {folder.saved_in}")
    if not isinstance(error, KeyboardInterrupt):
        note(error, note_traceback(error, folder.saved_in / "error.txt"))
