"""Virtual time: any number of workers on one device, real gradients, delays from a model.

Clocks take as long as the delay model says and merging takes no time, so what a schedule does to
training can be studied, seeded, on a laptop. With `compute=False` the clockwork runs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import jax
import tyro

from jax_ssp.checks import MOST_WORKERS, flag, function, integer, put, seed
from jax_ssp.delays import CALL, Constant, DelayModel, check_delay
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.runtimes.base import Parties, Runtime, World
from jax_ssp.runtimes.clockwork import VirtualClock
from jax_ssp.runtimes.faults import Fault, check_faults, check_workers, fates
from jax_ssp.runtimes.lazy import lazy_executor


@dataclass(frozen=True)
class Virtual(Runtime):
    """A deterministic virtual clock.

    Args:
        num_workers: all on the first device.
        delay: how long a clock takes (virtual seconds); any callable `(worker, clock, steps, rng)
            -> seconds`.
        seed: of the delays. Each worker draws from a stream of its own, so its draws do not depend
            on the schedule.
        compute: False runs the clockwork alone: no gradients, no server, no step needed.
        batch: up to so many clocks that are under way together are computed in one program
            (`jax.vmap`). Small models then take less time, since a program costs about as much to
            start as to run; large ones, and convolutions on a CPU, more. The results agree with
            those of `batch=1` to float tolerance, not to the bit.
        faults: what goes wrong (see `ssp.faults`).

    Raises:
        ValueError: if `num_workers` or `batch` is less than 1.

    Example:
        >>> Virtual(num_workers=64).count()
        64
    """

    num_workers: int = 4
    delay: DelayModel = field(default_factory=Constant)
    seed: int = 0
    compute: bool = True
    batch: int = 1
    faults: Annotated[Sequence[Fault], tyro.conf.Suppress] = ()

    def __post_init__(self) -> None:
        put(self, "num_workers", integer, least=1, most=MOST_WORKERS)
        put(self, "delay", function, CALL)
        put(self, "seed", seed)
        put(self, "compute", flag)
        put(self, "batch", integer, least=1)
        put(self, "faults", check_faults)

    @property
    def computes(self) -> bool:
        return self.compute

    def count(self) -> int:
        check_delay(self.delay, self.num_workers)
        check_workers("Virtual", self.faults, self.num_workers)
        return self.num_workers

    def worker_devices(self) -> list[jax.Device]:
        return [jax.local_devices()[0]] * self.num_workers

    def server_devices(self, devices: Sequence[jax.Device]) -> list[jax.Device]:
        return [devices[0]]  # with the workers, so that nothing travels

    def open(self, session: Parties) -> World:
        wrong = fates(self.faults)
        executor = lazy_executor(session, self.batch, wrong)
        delays = DelayDraws(self.delay, self.seed, session.num_workers)
        return World(VirtualClock(session.num_workers, executor, delays, wrong), executor)
