"""A run on a Ray cluster whose processes are killed again and again: is anything lost or doubled?

    python -m experiments.benchmarks.reliability.cluster [--workers 50] [--shares 10]
        [--drivers 5] [--seed 0] [--quick] [--json FILE]

The run is the digits under SSP(3) on a cluster of this machine: four workers, two shares of the
server, one spare, batches dealt by the ledger, saved every 20 clocks. From outside, processes of it
are sent SIGKILL:

- workers, in a phase that is drawn (while they begin a clock, while they compute one or give its
  delta, or whatever they do): each is lost to the run and comes again, and nobody else is;
- shares of the server (while they take a push, while they merge, or whatever they do): the run ends
  with 75, the same command goes on from the newest checkpoint;
- the driver with the controller, at any moment: the same command goes on.

At last the run is told to end; its tape is checked, and repeated on this machine.

Columns: `what` was killed, `times`; `lost`, workers that the tape says were lost; `violations` of
the contract; `doubled`, `missing`: samples that were merged twice in an epoch, and never in one
that is over; `replayed`: whether the tape repeats to the last bit; `recover_median`, `recover_max`:
from a loss to the first clock that is granted again (seconds); `terms`, how often the run went on.

Expected: no more workers lost than killed (a process that is killed while it takes the place of a
lost one is the same loss), no violations, nothing doubled or missing. Takes about 12 minutes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from experiments.workloads.digits import Digits
from jax_ssp.controller import StartClock, WorkerLost
from jax_ssp.controller.tape import Tape

COLUMNS = ("what", "times", "lost", "violations", "doubled", "missing", "replayed")
COLUMNS += ("recover_median", "recover_max", "terms")
WORKERS = 4
MEAN_SECONDS = 2.0  # between two kills, beside what a phase is waited for
PATIENCE = 300.0
STOP = "JAX_SSP_BENCHMARK_STOP"
PHASES = {
    "There": ("There.begin", "There.finish", "There."),  # the last: whatever it does
    "Shard": ("Shard.push", "Shard.happen", "Shard"),
}
NOT_YET = "There.prepare"  # a spare


class Stops(ssp.Observer):
    """Ends the run once a file is there."""

    def on_start(self, info: dict[str, Any]) -> None:
        self._file = Path(os.environ[STOP])

    def on_version(self, version: ssp.Version) -> None:
        if self._file.exists():
            self.stop("the benchmark is over")


def get_config() -> ssp.Experiment:
    """The run."""
    return ssp.Experiment(
        workload=Digits(elastic=True),
        policy=ssp.SSP(bound=3),
        runtime=ssp.Ray(
            WORKERS,
            server_shards=2,
            spares=1,
            delay=ssp.delays.Constant(0.1),
            recovery=ssp.Recovery(restarts=10**6, backoff=0.01),
        ),
        num_epochs=10**5,
        checkpoint=ssp.Checkpoints(every=20),
        hooks=(Stops(),),
    )


class Victim:
    """The run, in a process that is started again where it ends.

    Args:
        folder: of the run.
        rng: draws moments and phases.
    """

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder, self._rng = folder, rng
        self.environment = {**os.environ, STOP: str(folder.with_name("stop"))}
        self.killed = {"There": 0, "Shard": 0, "driver": 0}
        self.codes: list[int] = []
        self._begin()

    def _begin(self) -> None:
        words = ["run", __file__, "--workdir", str(self._folder)]
        line = [sys.executable, "-c", "from jax_ssp.cli import main; main()", *words]
        self._log = self._folder.with_name("log").open("ab")
        self._process = subprocess.Popen(
            line, stdout=self._log, stderr=self._log, env=self.environment, start_new_session=True
        )
        rows = self._rows()
        self._wait(lambda: self._rows() > rows + 5)

    def _rows(self) -> int:
        metrics = self._folder / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def _wait(self, until: Callable[[], object]) -> None:
        """Wait for something; RuntimeError if it takes too long."""
        end = time.monotonic() + PATIENCE
        while not until() and self._process.poll() is None:
            if time.monotonic() > end:
                raise RuntimeError(f"it stands still; see {self._folder.with_name('log')}")
            time.sleep(0.01)

    def kill(self, what: str) -> None:
        """Kill one of its processes, and see to it that the run goes on."""
        time.sleep(self._rng.expovariate(1 / MEAN_SECONDS))
        if what == "driver":
            self._process.send_signal(signal.SIGKILL)
        else:
            phase, found = self._rng.choice(PHASES[what]), list[int]()
            end = time.monotonic() + 2.0
            while not found:
                found = self._doing(phase if time.monotonic() < end else PHASES[what][-1])
            os.kill(self._rng.choice(found), signal.SIGKILL)
        self.killed[what] += 1
        if what == "There":
            rows = self._rows()
            self._wait(lambda: self._rows() > rows + 2 * WORKERS)
        else:
            self.codes.append(self._process.wait(PATIENCE))
            self._begin()

    def _doing(self, phase: str) -> list[int]:
        """The processes of the cluster that do this."""
        found: list[int] = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                title = (folder / "cmdline").read_bytes().rstrip(b"\0 ").decode()
            except (OSError, UnicodeDecodeError):
                continue
            number = int(folder.name)
            doing = title.startswith(f"ray::{phase}") and NOT_YET not in title
            if doing and self._is_ours(number):
                found.append(number)
        return found

    def _is_ours(self, number: int) -> bool:
        """Whether it is of this run: started by a process of Ray's that its driver has started."""
        try:
            return parent(parent(number)) == self._process.pid
        except OSError:  # it has ended
            return False

    def end(self) -> None:
        """Have it come to its end."""
        self._folder.with_name("stop").touch()
        self.codes.append(self._process.wait(PATIENCE))


def parent(number: int) -> int:
    """The process that has started one."""
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def recoveries(tape: Tape) -> list[float]:
    """For each loss, how long until the worker is granted a clock again (seconds)."""
    since: dict[int, float] = {}
    found: list[float] = []
    for now, event, commands in tape:
        for each in commands:
            if isinstance(each, StartClock) and each.worker in since:
                found.append(now - since.pop(each.worker))
        if isinstance(event, WorkerLost):
            since[event.worker] = now
    return found


def judged(folder: Path, victim: Victim) -> dict[str, Any]:
    """What the run says, once it is over."""
    tape = ssp.read_tape(folder / "tape.jsonl.gz")
    lost = [event for _, event, _ in tape if isinstance(event, WorkerLost)]
    violations = 0
    try:
        ssp.check_contract(tape)
    except ssp.ContractViolation:
        violations = 1
    line = [sys.executable, "-c", "from jax_ssp.cli import main; main()", "replay", str(folder)]
    again = subprocess.run(line, capture_output=True, env=victim.environment)
    data = json.loads((folder / "summary.json").read_text())["data"]
    seconds = recoveries(tape) or [0.0]
    over = data["epochs"][:-1]  # the last one is under way
    return {
        "what": "all",
        "times": sum(victim.killed.values()),
        "lost": len(lost),
        "violations": violations,
        "doubled": data["twice"],
        "missing": sum(epoch["never"] for epoch in over),
        "replayed": again.returncode == 0,
        "recover_median": statistics.median(seconds),
        "recover_max": max(seconds),
        "terms": len(victim.codes),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Kill, look, and report."""
    args = arguments(__doc__, argv, workers=50, shares=10, drivers=5, seed=0)
    counts = (3, 1, 1) if args.quick else (args.workers, args.shares, args.drivers)
    kills = ["There"] * counts[0] + ["Shard"] * counts[1] + ["driver"] * counts[2]
    rng = random.Random(args.seed)
    rng.shuffle(kills)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        victim = Victim(folder, rng)
        for what in kills:
            victim.kill(what)
        victim.end()
        row = judged(folder, victim)
    names = {"There": "workers", "Shard": "shares", "driver": "drivers"}
    nothing = dict.fromkeys(COLUMNS, "")
    more = [
        {**nothing, "what": names[what], "times": count} for what, count in victim.killed.items()
    ]
    report("cluster", COLUMNS, [*more, row], args, exit_codes=victim.codes)


if __name__ == "__main__":
    main()
