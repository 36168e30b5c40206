"""What tyro makes of the words after a config file: fields of an experiment, and options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jax_ssp.cli.usage import Ended, UsageError, parser_ends, usage_errors

if TYPE_CHECKING:
    from jax_ssp.training.experiment import Experiment

_KINDS = (
    "take a name too: --policy KSync puts that policy in place of the file's, at its defaults (but "
    "--runtime Virtual keeps the file's num_workers, delay and seed); --policy.k 2 after it sets a "
    "field of it. One of your own is named module:Name or "
    "folder/file.py:Name, or by its name alone if this file defines or imports it. Several values "
    "after a flag make a sweep: --policy.bound 0 1 3 --seed 0 1 makes six runs."
)


@dataclass(frozen=True)
class RunOptions:
    """The options of `run` that are not the experiment's."""

    workdir: Path | None = None
    """The run's folder; by default runs/<name>-<time>."""
    resume: Literal["auto", "never", "must"] = "auto"
    """What to do with a run that the folder holds: auto goes on with one that is not over, or whose
    ends are raised; never refuses a folder with a run in it, must one without."""
    dry_run: bool = False
    """Compile one clock on each device, print its memory and time, and stop; of a sweep, list its
    runs."""
    jobs: int | None = None
    """Runs of a sweep at once, each in a process of its own; 1 runs them in this one. By default as
    many as suit the machine; 1 on devices, since runs would slow each other down there."""


class Typed:
    """Types words as the fields of an experiment and the options of `run`, by tyro.

    Args:
        file: the config file.
        about: its first paragraph.
        kinds: the flags that take the name of a part.
    """

    def __init__(self, file: Path, about: str, kinds: Sequence[str]) -> None:
        flags = f"{', '.join(kinds[:-1])} and {kinds[-1]}"
        about = f"{about}\n\n{flags} {_KINDS}"
        self._how = {"prog": f"jax-ssp run {file}", "description": about}

    def __call__(
        self, config: Experiment, words: list[str], quiet: bool = False
    ) -> tuple[Experiment, RunOptions]:
        import tyro

        bare = tyro.conf.arg(name="")  # fields without a prefix: `--policy.bound`, `--workdir`
        kinds = {"experiment": type(config), "options": RunOptions}  # whose fields are options
        parts = [(name, Annotated[kind, bare]) for name, kind in kinds.items()]
        arguments: Any = make_dataclass("arguments", parts, frozen=True)
        with parser_ends(), usage_errors():
            typed = tyro.cli(
                arguments,
                **self._how,
                default=arguments(config, RunOptions()),
                args=words,
                console_outputs=not quiet,
                config=(tyro.conf.AvoidSubcommands,),
            )
        return typed.experiment, typed.options

    def takes(self, config: Experiment, words: list[str]) -> bool:
        """Whether the experiment's fields take these words as they are."""
        try:
            self(config, words, quiet=True)
        except (Ended, UsageError):
            return False
        return True
