"""The folder in which a run is kept: one that it is given, or that of its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jax_ssp.checkpoint.agreement import settings_of
from jax_ssp.checkpoint.claim import Resume, resumable
from jax_ssp.checkpoint.keeper import FolderKeeper
from jax_ssp.checkpoint.run_folder import RunFolder
from jax_ssp.failures import AGAIN, INTERRUPTED, note
from jax_ssp.runtimes.cut import SpoiledCheckpoint
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.replay import Replay


def kept_in_folder(
    plan: Plan, observers: Sequence[Observer], resume: Resume, until: ExitStack
) -> tuple[Sequence[Observer], FolderKeeper | None]:
    """What keeps a run in its folder, and goes on with what that holds; None without a folder.

    Args:
        plan: of the run, checked.
        observers: of the run, its folder perhaps among them.
        resume: whether to go on with what a folder holds.
        until: closes what is opened here.

    Returns:
        The observers, those among them that the keeper needs, and the keeper.

    Raises:
        ValueError: if it holds a run that this one cannot go on with, or must hold one and does
            not; before anything is built.
    """
    folders = [each for each in observers if isinstance(each, RunFolder)]
    replays = isinstance(plan.runtime, Replay)  # which has its own end, and saves nothing
    wanted = None if replays else plan.checkpoint
    if wanted is not None and wanted.folder is not None:
        path = Path(wanted.folder).absolute()
        if not folders:
            folders = [until.enter_context(RunFolder(path, called="`Checkpoints(folder=...)`"))]
            observers = (*folders, *observers)
        elif folders[0].path != path:
            raise ValueError(
                f"`Checkpoints(folder=...)` is {path}, and the run has the folder "
                f"{folders[0].path}: its checkpoints lie there, so give it no other."
            )
    if not folders and (wanted is not None or resume == "must"):
        what = '`resume="must"`' if wanted is None else "`checkpoint=Checkpoints(...)`"
        raise ValueError(
            f"{what} needs the folder of a run: give `checkpoint=ssp.Checkpoints(folder)`, or "
            "`observers=[ssp.RunFolder(path)]`."
        )
    if len(folders) > 1 or replays:
        resume, wanted = "never", None  # two would have to agree
    settings = settings_of(plan)
    pasts = [folder.prepare(settings, resume) for folder in folders]
    if not folders:
        return observers, None
    facts = {name: settings[name] for name in ("experiment", "time")}
    keeper = FolderKeeper(folders[0], pasts[0], wanted, facts)
    return (*observers, *keeper.observers), keeper


def ended_by_sigterm(folder: Path, result: object) -> SystemExit:
    """What ends the process that a scheduler has asked to end, once its run is saved.

    Args:
        folder: of the run.
        result: what there is by now; it becomes the attribute `result`.
    """
    again = resumable(folder)
    ended = SystemExit(AGAIN if again else INTERRUPTED)
    note(ended, f"SIGTERM ended the run{'; run again, it goes on' if again else ''}")
    ended.result = result  # pyright: ignore[reportAttributeAccessIssue]
    return ended


@contextmanager
def blaming(keeper: FolderKeeper) -> Iterator[None]:
    """A checkpoint of which something came that is not finite is set aside, once.

    Args:
        keeper: of the run.

    Raises:
        SpoiledCheckpoint: if there was one.
    """
    try:
        yield
    except SpoiledCheckpoint as error:
        error.exit_code, told = keeper.spoiled(str(error).rstrip("."))
        note(error, told)
        raise
