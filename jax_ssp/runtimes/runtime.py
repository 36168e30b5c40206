"""What a runtime is: a kind of world, as a config names it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jax_ssp.controller.ends import Ends
from jax_ssp.runtimes.base import World
from jax_ssp.runtimes.faults.base import Fault
from jax_ssp.runtimes.faults.schedule import Schedule
from jax_ssp.runtimes.faults.told import told

if TYPE_CHECKING:
    import jax

    from jax_ssp.compression import Compressor
    from jax_ssp.delays.network import Network
    from jax_ssp.runtimes.observer import Observer
    from jax_ssp.server.server import Server
    from jax_ssp.server.store import Store
    from jax_ssp.slices import Slices
    from jax_ssp.worker.worker import Worker


class Wires(Protocol):
    """Of a `Plan`, how arrays travel."""

    @property
    def overlap(self) -> int:
        """Local steps a worker runs ahead meanwhile."""
        ...

    @property
    def num_fragments(self) -> int:
        """How many fragments the parameters are in."""
        ...

    @property
    def delta_wire(self) -> Compressor | None:
        """Compressor of deltas."""
        ...

    @property
    def snapshot_wire(self) -> Compressor | None:
        """Compressor of snapshots."""
        ...


class Parties(Protocol):
    """What a runtime is given to open: of a `Session`, who takes part."""

    @property
    def plan(self) -> Wires:
        """What the run is."""
        ...

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        ...

    @property
    def most(self) -> int:
        """The same, with those that the run was begun with and goes on without."""
        ...

    @property
    def workers(self) -> list[Worker]:
        """All of them, the present ones; none where nothing is computed."""
        ...

    @property
    def store(self) -> Store | None:
        """Where their arrays meet; None where nothing is computed."""
        ...


@dataclass(frozen=True)
class Runtime(ABC):
    """A kind of world, as a config names it."""

    @property
    def computes(self) -> bool:
        """Whether gradients are computed, or the clockwork runs alone."""
        return True

    @property
    def batch(self) -> int:
        """How many clocks at most are computed in one program."""
        return 1

    @property
    def faults(self) -> Sequence[Fault | Schedule]:
        """What goes wrong in it."""
        return ()

    @property
    def network(self) -> Network | None:
        """Between workers and server; None if exchange takes the time that it takes, or none."""
        return None

    def donates(self, progress: bool) -> bool:
        """Whether who joins takes over the state of a worker that is there.

        Args:
            progress: whether workers keep progress of their own when they adopt.
        """
        return progress

    def told(self, num_workers: int) -> dict[str, Any]:
        """What the header of a tape says of its faults, its network, and who joins later."""
        network = self.network
        linked = {} if network is None or network.is_free else {"network": network.facts()}
        later = {"max_workers": self.most()} if self.most() > num_workers else {}
        return {**told(self.faults, num_workers), **linked, **later}

    @property
    def time(self) -> str:
        """Whose seconds its times are: "virtual" or "wall"."""
        return "virtual"

    @abstractmethod
    def count(self) -> int:
        """The number of workers.

        Raises:
            ValueError: if there are none, or there are fewer devices than asked for.
        """

    def most(self) -> int:
        """How many workers there are in the course of a run: more where others join later."""
        return self.count()

    @abstractmethod
    def worker_devices(self) -> list[jax.Device]:
        """The device of each worker."""

    def worker_slices(self) -> Slices | None:
        """The slice of each worker; None where each has one device."""
        return None

    def server_devices(self, devices: Sequence[jax.Device]) -> list[jax.Device]:
        """Where the server lives if nobody says so, given the devices of the workers."""

        from jax_ssp.placement import Placement

        return [Placement.host().device]

    def server_shares(self, size: int) -> int:
        """In how many shares the server has what one of so many devices of a slice holds."""
        return 1

    def store(self, plan: Wires, server: Server) -> Store:
        """Where payloads and snapshots of a run are; `server` merges, if that is in this process.

        By default it is.
        """
        from jax_ssp.server.local_store import LocalStore

        return LocalStore(server, plan.delta_wire, plan.snapshot_wire)

    def carry_out(
        self,
        run: Callable[..., Any],
        plan: Any,
        task: Any,
        observers: Sequence[Observer],
        resume: Any,
    ) -> Any:
        """Carry a whole run out, which this is the runtime of; gives its result. By default, here.

        Args:
            run: does it, given the rest; a function of a module, so that other processes have it.
            plan: what the run is, checked.
            task: what is trained.
            observers: all of them.
            resume: whether to go on with what the run's folder holds.
        """
        return run(plan, task, observers, resume)

    def elsewhere(self, run: Any) -> tuple[Store, list[Worker]] | None:
        """The store and the workers, where they are in other processes; None if they are here.

        Args:
            run: a `Blueprint` of it.
        """
        return None

    @abstractmethod
    def open(self, session: Parties) -> World:
        """The world with a session's workers in it."""

    def first_ends(self, ends: Ends) -> Ends:
        """The counts that end a run when it begins, of one with these ends."""
        return ends

    def check(self, header: Mapping[str, Any]) -> None:
        """Raise ValueError if a run with this tape header cannot be had here."""
