"""Virtual time: any number of workers on one device, real gradients, delays from a model.

Clocks take as long as the delay model says, so what a schedule does to training can be studied,
seeded, on a laptop. Exchange and merging take no time unless a network is given. With
`compute=False` the clockwork runs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax

from jax_ssp.checks import MOST_WORKERS, flag, function, instance, integer, optional, put, seed
from jax_ssp.delays import CALL, Constant, DelayModel, check_delay
from jax_ssp.delays.draws import DelayDraws
from jax_ssp.delays.network import NETWORK, Network
from jax_ssp.runtimes.base import World
from jax_ssp.runtimes.clockwork import VirtualClock
from jax_ssp.runtimes.faults.fates import fates_of
from jax_ssp.runtimes.faults.told import check_faults, check_workers
from jax_ssp.runtimes.faults.typed import Faults
from jax_ssp.runtimes.lazy import lazy_executor
from jax_ssp.runtimes.networked import NetworkClock
from jax_ssp.runtimes.runtime import Parties, Runtime
from jax_ssp.runtimes.traffic import Traffic


@dataclass(frozen=True)
class Virtual(Runtime):
    """A deterministic virtual clock.

    Args:
        num_workers: all on the first device.
        delay: how long a clock takes (virtual seconds); any callable `(worker, clock, steps, rng)
            -> seconds`. One that has `ahead` too is asked for many at once (see `Delay.ahead`).
        seed: of the delays. Each worker draws from a stream of its own, so its draws do not depend
            on the schedule.
        compute: False runs the clockwork alone: no gradients, no server, no step needed.
        batch: up to so many clocks that are under way together are computed in one program
            (`jax.vmap`). Small models then take less time, since a program costs about as much to
            start as to run; large ones, and convolutions on a CPU, more. The results agree with
            those of `batch=1` to float tolerance, not to the bit.
        faults: what goes wrong (see `ssp.faults`). In words a kind, a worker and a clock, and what
            else it takes: crash:2:5 slow:1:3:seconds=0.5 kill:phase=save,nth=2
            poisson:mtbf=30,kinds=crash+late,back_after=5.
        network: what it takes to push, to merge and to read (see `ssp.Network`); by default it
            takes no time. Only with one do steps that are run ahead (`overlap`) save any: without,
            a clock takes all its time from its start.

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
    faults: Faults = ()
    network: Network | None = None

    def __post_init__(self) -> None:
        put(self, "num_workers", integer, least=1, most=MOST_WORKERS)
        put(self, "delay", function, CALL)
        put(self, "seed", seed)
        put(self, "compute", flag)
        put(self, "batch", integer, least=1)
        put(self, "faults", check_faults)
        put(self, "network", optional, instance, Network, NETWORK)

    @property
    def computes(self) -> bool:
        return self.compute

    def count(self) -> int:
        check_delay(self.delay, self.num_workers)
        check_workers("Virtual", self.faults, self.num_workers)
        if self.network is not None:
            self.network.check(self.num_workers, self.compute)
        return self.num_workers

    def worker_devices(self) -> list[jax.Device]:
        return [jax.local_devices()[0]] * self.num_workers

    def server_devices(self, devices: Sequence[jax.Device]) -> list[jax.Device]:
        return [devices[0]]  # with the workers, so that nothing travels

    def open(self, session: Parties) -> World:
        fates = fates_of(self.faults, session.most)
        executor = lazy_executor(session, self.batch, fates)
        delays = DelayDraws(self.delay, self.seed, session.most)
        clock = VirtualClock(session.num_workers, executor, delays, fates)
        if self.network is not None and not self.network.is_free:
            traffic = Traffic.of(self.network, session)
            clock = NetworkClock(session.num_workers, executor, delays, traffic, fates)
        return World(clock, executor, fates)
