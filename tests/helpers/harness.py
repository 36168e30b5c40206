"""Shared by the controller's tests: the model and the driver of `jax_ssp.testing`, and a policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jax_ssp.controller.commands import Command
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import SSP, Decision
from jax_ssp.testing.driving import MOST_WORKERS, Run, done, promises, random_run
from jax_ssp.testing.model import Model

__all__ = ["MOST_WORKERS", "Model", "Run", "done", "promises", "random_run"]


@dataclass(frozen=True)
class Forgetful(SSP):
    """SSP that drops the deltas of every second clock."""

    def ready(self, view):
        merge = [delta for delta in view.buffered if delta.clock % 2 == 0]
        drop = [delta for delta in view.buffered if delta.clock % 2 == 1]
        return Decision(merge, drop, reason="an odd clock")


def commands_of(tape: Tape, kind: type) -> Iterator[Command]:
    return (command for _, _, commands in tape for command in commands if type(command) is kind)
