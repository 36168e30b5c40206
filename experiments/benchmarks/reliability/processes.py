"""A process that is killed, or told to end, again and again: does its run come back as what it was?

    python -m experiments.benchmarks.reliability.processes [--kills 100] [--terms 100] [--seed 0]
        [--jobs 1] [--untouched FILE] [--quick] [--json FILE]

The run is `victim.py`: the digits in virtual time under SSP(3), with momentum on the server, an
optimizer and error feedback at each worker, saved every 20 clocks. First it runs once without being
touched, and the digest of all that it is is taken at each row of its tape (`--untouched` keeps
that for another time, with the same code). Then runs of it are

- killed (SIGKILL) after a time that is drawn from an exponential distribution;
- killed inside a save, whose arrays are written by then while the checkpoint is not whole;
- told to end (SIGTERM) after such a time,

and started again, until it has come back so often; a run that is over makes room for another. Each
time, what it goes on as is compared with what the untouched run was at that row, and what is in the
folder with what was there before.

Columns: `how`; `times`; `resumed`, of which from a checkpoint (`from_cut`); `equal`, whose digest
is that of the untouched run; `damaged`, which took a checkpoint that is not good; `lost`, where a
checkpoint that was whole, or a row that was on the disk, is gone; `exit_codes`; `seconds`, in all.

Expected: all are equal, and nothing is damaged or lost. SIGTERM ends with 75.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import arguments, report
from jax_ssp.controller.tape_file import read_tape

COLUMNS = ("how", "times", "resumed", "from_cut", "equal", "damaged", "lost", "exit_codes")
COLUMNS += ("seconds",)
CLOCKS = 300  # of a run, which is begun anew when it is over
MEAN_SECONDS = 1.0  # from its first row to the signal


class Lines:
    """The lines of a trace that a process has written since they were read last."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0

    def new(self) -> list[dict[str, Any]]:
        """Those that are whole."""
        text = self._path.read_bytes()[self._at :] if self._path.exists() else b""
        whole, _, _ = text.rpartition(b"\n")
        self._at += len(whole) + bool(whole)
        return [json.loads(line) for line in whole.splitlines()]


def begin(folder: Path, trace: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start the victim, in a process of its own."""
    module = "experiments.benchmarks.reliability.victim"
    command = [sys.executable, "-m", module, str(folder), "--trace", str(trace)]
    return subprocess.Popen(
        [*command, "--clocks", str(CLOCKS), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def untouched(place: Path, trace: Path) -> dict[int, str]:
    """The digest of all that the run is, at each row of its tape; made unless it is there."""
    if not trace.exists():
        writing = place / "untouched.jsonl"
        process = begin(place / "untouched", writing, "--each-row")
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(said.decode())
        shutil.move(writing, trace)
    return {line["rows"]: line["digest"] for line in Lines(trace).new() if "digest" in line}


class Chain:
    """Runs of the victim that are ended from outside, one after the other.

    Args:
        how: "killed", "killed in a save", or "told to end".
        place: for their folders.
        expected: the digest at each row.
        rng: draws the moments.
    """

    def __init__(self, how: str, place: Path, expected: dict[int, str], rng: random.Random) -> None:
        self.how = how
        self._place = place
        self._expected = expected
        self._rng = rng
        self._number = 0  # of the run
        self._faults: tuple[str, ...] = ()
        self._open()
        self.found: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self.wrong: list[str] = []

    def _open(self) -> None:
        name = f"{self.how.replace(' ', '-')}-{self._number}"
        self._folder, trace = self._place / name, self._place / f"{name}.jsonl"
        self._trace, self._lines = trace, Lines(trace)
        self._number += 1
        if self.how == "killed in a save":  # in each of its lives, in the first or second save
            draws = [(life, self._rng.choice((1, 2))) for life in range(CLOCKS)]
            words = [f"kill:phase=save:nth={nth}:life={life}" for life, nth in draws]
            self._faults = ("--faults", *words)

    def once(self) -> None:
        """Start a process, end it, and look at what it had gone on as."""
        before = self._there()
        process = begin(self._folder, self._trace, *self._faults)
        if self.how == "killed in a save":
            process.wait()
        else:
            self._end(process)
        said = b"" if process.stderr is None else process.stderr.read()
        if self._look(process.returncode, before, said.decode()):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._open()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the run goes, and then for a time that is drawn; then send the signal."""
        seconds = self._rng.expovariate(1 / MEAN_SECONDS)
        size = self._trace.stat().st_size if self._trace.exists() else 0
        while process.poll() is None:
            if self._trace.exists() and self._trace.stat().st_size > size:
                break
            time.sleep(0.02)
        until = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        sent = signal.SIGKILL if self.how == "killed" else signal.SIGTERM
        if process.poll() is None:
            process.send_signal(sent)
            self.found["times"] += 1
        process.wait()

    def _there(self) -> tuple[list[int], int]:
        """The checkpoints in the folder, and how many rows its tape has."""
        steps = self._folder / "checkpoints"
        numbers = [int(each.name) for each in steps.glob("*") if each.name.isdecimal()]
        tape = self._folder / "tape.jsonl.gz"
        return sorted(numbers), len(read_tape(tape)) if tape.exists() else 0

    def _look(self, code: int, before: tuple[list[int], int], said: str) -> bool:
        """Compare what the process had gone on as; gives whether its run is over."""
        self.codes[code] += 1
        if self.how == "killed in a save":
            self.found["times"] += code == -signal.SIGKILL
        steps, rows = before
        lines = self._lines.new()
        for line in lines:
            if "tape" not in line:
                continue
            self.found["resumed"] += 1
            self.found["from_cut"] += line["cut"] > 0
            newest = max(steps, default=0)
            if line["cut"] != newest or line["tape"] != rows:
                self.found["lost"] += 1
                self.wrong.append(f"{self._folder.name}: {line} after {steps} and {rows} rows")
            if self._expected.get(line["rows"]) == line["digest"]:
                self.found["equal"] += 1
            else:
                self.wrong.append(f"{self._folder.name}: other than untouched: {line}")
        damaged = len(list((self._folder / "checkpoints").glob("*.damaged")))
        self.found["damaged"] += damaged
        over = any("status" in line for line in lines) or self._is_over()
        # Of a run that is over there is nothing to save: its process ends like any other.
        if code not in (0, 75, -signal.SIGKILL) and not (over and code == -signal.SIGTERM):
            self.wrong.append(f"{self._folder.name} ended with {code}: {said[-2000:]}")
        return over

    def _is_over(self) -> bool:
        """Whether the run had come to its end, though its process was killed on its way out."""
        summary = self._folder / "summary.json"
        return summary.exists() and json.loads(summary.read_text())["status"] == "done"

    def row(self, seconds: float) -> dict[str, Any]:
        """What came of it."""
        codes = " ".join(f"{code}:{count}" for code, count in sorted(self.codes.items()))
        counts = {name: self.found[name] for name in COLUMNS[1:7]}
        return {"how": self.how, **counts, "exit_codes": codes, "seconds": seconds}


def row_of(how: str, wanted: int, place: Path, expected: dict[int, str], seed: str) -> Any:
    """What came of so many times, and what was wrong."""
    began = time.monotonic()
    chain = Chain(how, place, expected, random.Random(seed))
    while chain.found["resumed"] < wanted and len(chain.wrong) < 3:
        said = len(chain.wrong)
        chain.once()
        for each in chain.wrong[said:]:
            print(each, file=sys.stderr, flush=True)
    row = chain.row(time.monotonic() - began)
    print(row, file=sys.stderr, flush=True)
    return row, chain.wrong


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(__doc__, argv, kills=100, terms=100, seed=0, jobs=1, untouched="")
    kills, terms = (4, 2) if args.quick else (args.kills, args.terms)
    times = {"killed": kills // 2, "killed in a save": kills - kills // 2, "told to end": terms}
    print(f"seed {args.seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.jobs) as pool:
        place = Path(name)
        expected = untouched(place, Path(args.untouched or place / "digests.jsonl"))
        made = [
            pool.submit(row_of, how, wanted, place, expected, f"{args.seed} {number}")
            for number, (how, wanted) in enumerate(times.items())
        ]
        rows, wrong = zip(*(each.result() for each in made), strict=True)
    report("processes", COLUMNS, rows, args)
    return 1 if any(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
