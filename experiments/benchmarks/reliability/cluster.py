"""A run on a Ray cluster whose processes are killed again and again: is anything lost or doubled?

    python -m experiments.benchmarks.reliability.cluster [--workers 50] [--others 9] [--shares 10]
        [--drivers 5] [--seed 0] [--quick] [--json FILE]

The run is the digits under SSP(3) on a cluster of this machine: four workers, two shares of the
server, one spare, batches dealt by the ledger, saved every 20 clocks. From outside, processes of it
are sent SIGKILL:

- workers that have a number, in a phase that is drawn (while they begin a clock, while they compute
  one or give its delta, or whatever they do): each is lost to the run and comes again, and nobody
  else is. Every second time a spare is waited for before;
- others: right after a worker, a process that is on its way to a number, one that is being prepared
  as a spare, and a spare, in turn. If none is found in time, it is whichever there is;
- shares of the server (while they take a push, while they merge, or whatever they do): the run ends
  with 75, the same command goes on from the newest checkpoint;
- the driver with the controller, at any moment: the same command goes on.

At last the run is told to end; its tape is checked, and repeated on this machine.

Columns: `what` was killed, by what it was at that moment; `times`; `lost`, workers that were lost
by that; `recover_median`, `recover_max`: from the moment that a loss is
known to the next clock that the worker has finished (seconds). In the last row `lost` is what the
tape says; and `violations` of the contract; `doubled`, `missing`: samples that were merged twice in
an epoch, and those that nobody had been given, or was still to be given, when it ended;
`replayed`: whether the tape repeats to the last bit;
`terms`, how often the run went on.

Expected: every worker with a number that is killed is one loss, and nothing else is (whoever has no
number yet is nobody to the run, and its place is filled without a second loss); no violations,
nothing doubled or missing; with a spare, recovery within 3 seconds.
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
from typing import Any, NamedTuple

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.reliability.losses import STOP, Loss, Watches, losses
from experiments.benchmarks.reliability.roles import Roles
from experiments.workloads.digits import Digits
from jax_ssp.controller import WorkerLost
from jax_ssp.runtimes.dealing import left_out

COLUMNS = ("what", "times", "lost", "recover_median", "recover_max")
COLUMNS += ("violations", "doubled", "missing", "replayed", "terms")
WORKERS = 4
MEAN_SECONDS = 2.0  # between two kills, beside what is waited for
PATIENCE, SPARE_SECONDS, FIND_SECONDS = 300.0, 90.0, 20.0
WORKER_PHASES = ("There.begin", "There.finish", "There")  # the last: whatever it does
SHARE_PHASES = ("Shard.push", "Shard.happen", "Shard")
OTHERS = ("on its way", "being prepared", "spare")
WITH, WITHOUT = "worker, a spare ready", "worker, no spare ready"
FIRST = "worker, another after it"
WORKER_KILLS = (WITH, WITHOUT, FIRST)


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
            recovery=ssp.Recovery(restarts=10**6, backoff=0),  # else it doubles at each loss
        ),
        num_epochs=10**5,
        checkpoint=ssp.Checkpoints(every=20),
        hooks=(Watches(),),
    )


class Kill(NamedTuple):
    """One kill: of what, and when (seconds since 1970)."""

    what: str
    at: float


NOTHING = Kill("nothing", 0.0)


class Victim:
    """The run, in a process that is started again where it ends.

    Args:
        folder: of the run.
        rng: draws moments and phases.
    """

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder, self._rng = folder, rng
        self.environment = {**os.environ, STOP: str(folder.with_name("stop"))}
        self.kills: list[Kill] = []
        self.codes: list[int] = []
        self._begin()

    def _begin(self) -> None:
        words = ["run", __file__, "--workdir", str(self._folder)]
        line = [sys.executable, "-c", "from jax_ssp.cli import main; main()", *words]
        self._log = self._folder.with_name("log").open("ab")
        self._process = subprocess.Popen(
            line, stdout=self._log, stderr=self._log, env=self.environment, start_new_session=True
        )
        self.roles = Roles(self._process.pid)
        self._goes_on(5)

    def _goes_on(self, more: int) -> None:
        """Wait for so many rows; RuntimeError if that takes too long."""
        rows = self._rows()
        if not self._until(lambda: self._rows() > rows + more, PATIENCE):
            raise RuntimeError(f"it stands still; see {self._folder.with_name('log')}")

    def _rows(self) -> int:
        metrics = self._folder / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def _until(self, there: Callable[[], object], seconds: float, every: float = 0.05) -> bool:
        """Wait for something, but not for longer than this; gives whether it has come.

        Raises:
            RuntimeError: if the run ends meanwhile, though nobody has killed it.
        """
        end = time.monotonic() + seconds
        while not there():
            self.roles.look()
            if (code := self._process.poll()) is not None:
                log = self._folder.with_name("log").read_text()[-2000:]
                raise RuntimeError(f"the run has ended by itself, with {code}: {log}")
            if time.monotonic() > end:
                return False
            time.sleep(every)
        return True

    def _spare(self) -> bool:
        return "spare" in self.roles.look().values()

    def worker(self, waits: bool, alone: bool) -> None:
        """Kill a worker with a number: it `waits` for a spare before; `alone`, none other after."""
        self.roles.watch(0.5 + self._rng.expovariate(1 / MEAN_SECONDS))
        if waits:
            self._until(self._spare, SPARE_SECONDS)
        phase, end = self._rng.choice(WORKER_PHASES), time.monotonic() + 2.0

        def struck() -> bool:
            roles = self.roles.look()
            doing = self.roles.doing(phase if time.monotonic() < end else WORKER_PHASES[-1])
            found = [number for number in doing if roles.get(number) == "worker"]
            what = FIRST if not alone else WITH if "spare" in roles.values() else WITHOUT
            return bool(found) and self._kill(what, self._rng.choice(found))

        self._strike(struck)

    def _strike(self, struck: Callable[[], bool]) -> None:
        """Try until something is killed."""
        if not self._until(struck, PATIENCE, every=0.005):
            raise RuntimeError("no process was found that could be killed.")

    def other(self, role: str) -> None:
        """Right after a worker, kill a process that is no worker yet."""
        self._until(lambda: role in self.roles.look().values(), FIND_SECONDS, every=0.005)
        roles = self.roles.look()
        there = [number for number, each in roles.items() if each == role]
        found = there or [number for number, each in roles.items() if each != "worker"]
        if found:
            number = self._rng.choice(found)
            self._kill(roles[number], number)

    def _kill(self, what: str, number: int) -> bool:
        """Kill a process; False if it is no more."""
        at = time.time()
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills.append(Kill(what, at))
        return True

    def settle(self) -> None:
        """See to it that the run goes on after workers were killed."""
        self._goes_on(2 * WORKERS)

    def end_by(self, what: str) -> None:
        """Kill a share or the driver, and run the same again."""
        self.roles.watch(0.5 + self._rng.expovariate(1 / MEAN_SECONDS))
        phase, end = self._rng.choice(SHARE_PHASES), time.monotonic() + 2.0

        def struck() -> bool:
            self.roles.look()
            found = self.roles.doing(phase if time.monotonic() < end else SHARE_PHASES[-1])
            found = found if what == "share" else [self._process.pid]
            return bool(found) and self._kill(what, self._rng.choice(found))

        self._strike(struck)
        self.codes.append(self._process.wait(PATIENCE))
        self._begin()

    def end(self) -> None:
        """Have it come to its end."""
        self._folder.with_name("stop").touch()
        self.codes.append(self._process.wait(PATIENCE))


def accounted(kills: Sequence[Kill], found: Sequence[Loss]) -> list[dict[str, Any]]:
    """A row for each kind of what was killed, with the losses that followed."""
    followed: dict[str, list[Loss]] = {}
    unknown = [kill for kill in kills if kill.what in WORKER_KILLS]  # no loss is known of these
    for loss in found:
        before = [kill for kill in kills if kill.at <= loss.at]
        its = unknown.pop(0) if unknown and unknown[0].at <= loss.at else (before or [NOTHING])[-1]
        followed.setdefault(its.what, []).append(loss)
    nothing = dict.fromkeys(COLUMNS, "")
    kinds = [*WORKER_KILLS, *OTHERS, "share", "driver", *(["nothing"] * ("nothing" in followed))]
    rows: list[dict[str, Any]] = []
    for what in kinds:
        lost = followed.get(what, [])
        times = sum(kill.what == what for kill in kills)
        rows.append({**nothing, "what": what, "times": times, "lost": len(lost), **recovery(lost)})
    return rows


def recovery(lost: Sequence[Loss]) -> dict[str, Any]:
    """How long it took (seconds)."""
    seconds = [each.seconds for each in lost if each.seconds is not None]
    if not seconds:
        return {}
    return {"recover_median": statistics.median(seconds), "recover_max": max(seconds)}


def judged(folder: Path, victim: Victim, found: Sequence[Loss]) -> dict[str, Any]:
    """What the run says, once it is over."""
    tape = ssp.read_tape(folder / "tape.jsonl.gz")
    violations = 0
    try:
        ssp.check_contract(tape)
    except ssp.ContractViolation:
        violations = 1
    line = [sys.executable, "-c", "from jax_ssp.cli import main; main()", "replay", str(folder)]
    again = subprocess.run(line, capture_output=True, env=victim.environment)
    data = json.loads((folder / "summary.json").read_text())["data"]
    return {
        **dict.fromkeys(COLUMNS, ""),
        "what": "all",
        "times": len(victim.kills),
        "lost": sum(isinstance(event, WorkerLost) for _, event, _ in tape),
        **recovery(found),
        "violations": violations,
        "doubled": data["twice"],
        "missing": sum(epoch.never for epoch in left_out(tape)),
        "replayed": again.returncode == 0,
        "terms": len(victim.codes),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Kill, look, and report."""
    args = arguments(__doc__, argv, workers=50, others=9, shares=10, drivers=5, seed=0)
    counts = (2, 1, 1, 1) if args.quick else (args.workers, args.others, args.shares, args.drivers)
    kills = [("worker", number) for number in range(counts[0])]
    kills += [("other", number) for number in range(counts[1])]
    kills += [("share", 0)] * counts[2] + [("driver", 0)] * counts[3]
    rng = random.Random(args.seed)
    rng.shuffle(kills)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        victim = Victim(folder, rng)
        for what, number in kills:
            if what in ("share", "driver"):
                victim.end_by(what)
                continue
            victim.worker(waits=number % 2 == 0, alone=what == "worker")
            if what == "other":
                victim.other(OTHERS[number % len(OTHERS)])
            victim.settle()
        victim.end()
        found = losses(folder.with_name("losses"))
        rows = [*accounted(victim.kills, found), judged(folder, victim, found)]
    took = [(each.at, each.seconds) for each in found]
    report("cluster", COLUMNS, rows, args, exit_codes=victim.codes, kills=victim.kills, losses=took)


if __name__ == "__main__":
    main()
