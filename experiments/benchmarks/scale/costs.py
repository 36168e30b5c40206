"""What an event costs the controller, by policy, and what a shard merges and receives.

    python -m experiments.benchmarks.scale.costs [--quick] [--json FILE]

A policy's events are timed in seconds of this thread, `Controller.handle` alone, with workers whose
clocks take a minute and are spread by 2 %, over all events from one merge to the next; SSP(3) takes
turns with each. Two rates are measured besides, the best of 20: what one shard merges, parameters
of 64 MB into which one delta after the other goes, without an optimizer and with Nesterov momentum;
and what a process receives from itself through a socket of this machine, which is no network.

Columns: `policy`; `workers`; `us_per_event` (microseconds, timers included); `ratio_to_ssp`;
`least_clock`, the seconds that a clock of all these workers has to take, so that the controller is
busy for no more than 70 % of them, by that ratio and the quiet machine's figure for SSP(3) in
`controller.json`. The file has the rates (bytes a second) too, which other work on the machine
lowers.

Takes 5 minutes (`--quick`: 15 seconds).
"""

from __future__ import annotations

import heapq
import json
import random
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax_ssp as ssp
from experiments.benchmarks.common import alternating, arguments, median_ratio, report, seconds
from experiments.benchmarks.scale.clocks import MOST_BUSY
from jax_ssp.controller import Controller, StartClock, WorkerJoined
from jax_ssp.controller.commands import SetTimer
from jax_ssp.controller.events import Event, TimerFired

COLUMNS = ("policy", "workers", "us_per_event", "ratio_to_ssp", "least_clock")
SIZES = (8, 64, 1_000, 10_000)
SCANNED = 1_000  # the most workers, for policies that look at all of them at each event
TRIES = 20
MB = 1 << 20
RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"


class Costs(NamedTuple):
    """What the parts of a push take.

    Attributes:
        event: of the controller (seconds).
        merge: that a shard merges (bytes a second).
        link: that a shard receives, or sends (bytes a second).
    """

    event: float
    merge: float
    link: float

    def push(self, size: float) -> float:
        """How long a shard is busy with so many bytes: it receives them, then merges (seconds)."""
        return size / self.link + size / self.merge


def controller_seconds(workers: int) -> float:
    """What an event of SSP(3) took on a quiet machine, at this or the next larger size."""
    sizes = json.loads((RESULTS / "controller.json").read_text())["rows"]
    large = [row for row in sizes if row["workers"] >= workers] or sizes[-1:]
    return 1e-6 * large[0]["us_per_event"]


def policies(workers: int) -> dict[str, ssp.policies.Policy]:
    """What is timed, at this size."""
    found: dict[str, ssp.policies.Policy] = {"BSP": ssp.BSP(), "SSP(3)": ssp.SSP(3)}
    found["Quorum(0.9 W)"] = ssp.Quorum(k=max(1, int(0.9 * workers)), grace=3.0)
    if workers <= SCANNED:
        found["BackupWorkers"] = ssp.BackupWorkers(b=max(1, workers // 50))
        found["Decoupled(W / 2)"] = ssp.Decoupled(quorum=max(1, workers // 2), carry=4)
    return found


def rows(quick: bool) -> list[dict[str, Any]]:
    """One row for each size and policy."""
    found = []
    for workers in SIZES[:2] if quick else SIZES:
        events = max(2 * workers, 2_000 if quick else 5_000)
        for name, policy in policies(workers).items():
            measures = {
                "this": partial(event_seconds, policy, workers, events),
                "ssp": partial(event_seconds, ssp.SSP(3), workers, events),
            }
            taken = alternating(measures, 3)
            ratio = median_ratio(taken["this"], taken["ssp"])
            micros = 1e6 * statistics.median(taken["this"])
            least = workers * ratio * controller_seconds(workers) / MOST_BUSY
            values = (name, workers, micros, ratio, least)
            found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def event_seconds(policy: ssp.policies.Policy, workers: int, events: int) -> float:
    """What `Controller.handle` takes for each push, timers included (seconds of this thread)."""
    controller, rng = Controller(policy), random.Random(0)
    finishing: list[tuple[float, int, StartClock]] = []
    timer, taken, count = float("inf"), 0.0, 0

    def handle(now: float, event: Event) -> None:
        nonlocal timer, taken, count
        began = time.thread_time()
        commands = controller.handle(event, now)
        taken += time.thread_time() - began
        for command in commands:
            if type(command) is StartClock:
                count += 1
                finish = now + 60 * rng.lognormvariate(0, 0.02)
                heapq.heappush(finishing, (finish, count, command))
            elif type(command) is SetTimer:
                timer = float("inf") if command.at is None else command.at

    for worker in range(workers):
        handle(0.0, WorkerJoined(worker))
    taken = 0.0
    for _ in range(events):
        while timer <= finishing[0][0] if finishing else timer < float("inf"):
            timer, now = float("inf"), timer
            handle(now, TimerFired(now))
        now, _, start = heapq.heappop(finishing)
        handle(now, start.finished())
    return taken / events


def rates(quick: bool) -> dict[str, float]:
    """What a shard merges and receives (bytes a second)."""
    import jax
    import numpy as np

    from experiments.benchmarks.merge import SERVERS, Merging

    size = (16 if quick else 64) * MB
    tree = {f"leaf{leaf}": np.ones(size // 16, np.float32) for leaf in range(4)}
    devices = jax.local_devices(backend="cpu")[:1]
    found = {"link": max(received(size) for _ in range(TRIES))}
    for name, server in (("merge", "identity"), ("merge_momentum", "sgd momentum")):
        merging = Merging(tree, devices, **SERVERS[server])
        merging(3)  # memory that is used again is then there
        found[name] = size / min(seconds(partial(merging, 1)) for _ in range(TRIES))
    return found


def received(size: int) -> float:
    """What comes through a socket from another thread (bytes a second)."""
    sent, buffer = memoryview(bytes(size)), memoryview(bytearray(size))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as there,
        server.accept()[0] as here,
    ):
        sending = threading.Thread(target=there.sendall, args=(sent,))

        def receive() -> None:
            sending.start()
            at = 0
            while at < size:
                at += here.recv_into(buffer[at:])
            sending.join()

        return size / seconds(receive)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv)
    made, taken = rows(args.quick), rates(args.quick)
    print(", ".join(f"{name} {rate / 1e9:.2f} GB/s" for name, rate in taken.items()))
    report("costs", COLUMNS, made, args, rates=taken)


if __name__ == "__main__":
    main()
