"""Damaged checkpoints, and a disk that is full: is anything restored that is not what was saved?

    python -m experiments.benchmarks.reliability.files [--flips 2000] [--seed 0] [--quick]
        [--json FILE]

The checkpoints are those of `victim.py`. One bit is flipped in one of their files, each file as
likely as any other, its manifest among them, and the checkpoint is read; then the bit is put back.
In every fiftieth case the run goes on too, in a copy of its folder: it must take the checkpoint
before, and come to the parameters of the run that was left alone. Then a run with checkpoints of
40 MB writes into a file system of 64 MB in memory (where it may mount one); each checkpoint that
can be loaded must hold what its version was in a run that was left alone.

Columns: `what`; `times`; `noticed`, of which the damage was said; `silent`, where something else
was restored without a word; `same`, where the run came to the same parameters all the same.

Expected: nothing is silent.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.reliability.victim import experiment
from jax_ssp.checkpoint.step import load_step
from jax_ssp.trees import digest

COLUMNS = ("what", "times", "noticed", "silent", "same")
CLOCKS, EVERY = 24, 6
GOES_ON = 50  # every so many flips the run goes on


class Stop(ssp.Observer):
    """Breaks a run off after so many deltas."""

    def __init__(self, updates: int) -> None:
        self._updates = updates

    def on_clock(self, row: Any) -> None:
        if row["updates"] >= self._updates:
            raise RuntimeError("broken off")


def broken_off(folder: Path) -> None:
    """A run with checkpoints that has come to three quarters."""
    with contextlib.suppress(RuntimeError):
        run = experiment(folder, CLOCKS, (), EVERY)
        run.run([Stop(3 * CLOCKS)], progress=False)


def flips(folder: Path, count: int, rng: random.Random, expected: str) -> list[dict[str, Any]]:
    """Flip bits in the newest checkpoint of a folder, one at a time."""
    steps = sorted((folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    newest, wanted = steps[-1], load_step(steps[-1])
    files = [path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size]
    noticed = silent = 0
    gone_on = {"what": "the run goes on from a damaged one", "times": 0, "noticed": 0, "same": 0}
    for number in range(count):
        file = rng.choice(files)
        at, bit = rng.randrange(file.stat().st_size), rng.randrange(8)
        _flip(file, at, bit)
        try:
            if number % GOES_ON == 0:
                gone_on["times"] += 1
                same, said = _goes_on(folder, expected)
                gone_on["same"] += same
                gone_on["noticed"] += said
            try:
                found = load_step(newest)
                silent += not _same(found, wanted)
            except ValueError:
                noticed += 1
        finally:
            _flip(file, at, bit)
    assert _same(load_step(newest), wanted)
    flipped = {"what": "a bit is flipped", "times": count, "noticed": noticed, "silent": silent}
    return [{**flipped, "same": "-"}, {**gone_on, "silent": gone_on["times"] - gone_on["same"]}]


def _flip(file: Path, at: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


def _same(found: tuple[Any, Any], wanted: tuple[Any, Any]) -> bool:
    (facts, arrays), (other_facts, others) = found, wanted
    return facts == other_facts and all(
        np.asarray(arrays[name]).tobytes() == np.asarray(others[name]).tobytes() for name in others
    )


def _goes_on(folder: Path, expected: str) -> tuple[bool, bool]:
    """Whether a run comes to the right parameters, and whether the damage was noticed."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "run"
        shutil.copytree(folder, copy)
        result = experiment(copy, CLOCKS, (), EVERY).run(progress=False)
        damaged = list((copy / "checkpoints").glob("*.damaged"))
        return result.tape.params == expected, bool(damaged)


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system in memory of this size.

    Raises:
        OSError: if none may be mounted here.
    """
    with tempfile.TemporaryDirectory() as name:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name], capture_output=True
        )
        if mounted.returncode:
            raise OSError(mounted.stderr.decode().strip())
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=False)


class Versions(ssp.Observer):
    """Remembers what the parameters of each version are, by a digest."""

    def __init__(self) -> None:
        self.digests: dict[int, str] = {}

    def on_version(self, version: Any) -> None:
        self.digests[version.version] = digest(version.params["w"])


def _parameters(arrays: dict[str, Any]) -> Any:
    """The parameters of a run without masters, as its checkpoint has them."""
    (name,) = [name for name in arrays if name.startswith("store/pieces")]
    return arrays[name]


def full_disk() -> dict[str, Any]:
    """Train with checkpoints on a disk for two of them."""
    params = {"w": jnp.zeros((5_000_000 // 8, 8))}
    spec: dict[str, Any] = {
        "params": params,
        "data": lambda worker: iter(np.full(8, worker + 1.0, np.float32) for _ in range(40)),
        "policy": ssp.BSP(),
        "runtime": ssp.Virtual(1),
        "num_clocks": 40,
        "progress": False,
    }
    step = ssp.make_step(
        lambda params, batch, key: (jnp.mean((params["w"] - batch) ** 2), {}), optax.sgd(0.1)
    )
    versions = Versions()
    alone = ssp.train(step, observers=[versions], **spec)
    good = wrong = 0
    with small_disk("64m") as disk:
        folder = disk / "run"
        result = ssp.train(step, checkpoint=ssp.Checkpoints(folder, every=2, keep=9), **spec)
        saved = ssp.read_run(folder).summary or {}
        for place in (folder / "checkpoints").glob("[0-9]*"):
            with contextlib.suppress(ValueError):  # it says that it is damaged
                facts, arrays = load_step(place)
                right = versions.digests[facts["store"]["version"]] == digest(_parameters(arrays))
                good, wrong = good + right, wrong + (not right)
    failed = saved.get("checkpoints", {}).get("failed", 0)
    same = result.status == "done" and result.tape.params == alone.tape.params and good > 0
    return {
        "what": f"a disk of 64 MB is full ({good} good checkpoints)",
        "times": 1,
        "noticed": int(failed > 0),
        "silent": int(wrong > 0),
        "same": int(same),
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(__doc__, argv, flips=2000, seed=0)
    count = 60 if args.quick else args.flips
    with tempfile.TemporaryDirectory() as name:
        expected = experiment(Path(name) / "whole", CLOCKS, (), EVERY).run(progress=False)
        broken_off(Path(name) / "run")
        rng = random.Random(args.seed)
        rows = flips(Path(name) / "run", count, rng, str(expected.tape.params))
    try:
        rows.append(full_disk())
    except OSError as error:
        print(f"no file system can be mounted here: {error}", file=sys.stderr)
    report("files", COLUMNS, rows, args)
    return int(any(row["silent"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
