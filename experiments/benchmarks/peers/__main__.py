"""Ours beside other systems on the same steps: how near each comes to its own steps alone.

    python -m experiments.benchmarks.peers [--quick] [--json FILE] [--only drjax] [--size 1]

All train four square tanh layers by plain SGD on the same batches. Each system is compared with its
bound: the same steps in as many threads or processes of its own kind without any exchange. The
systems of a kind take turns with their bound; figures are medians over rounds. Where workers
straggle, each sleeps before its steps, exponential and drawn for (worker, step): all systems of a
round have the same sleeps. The bound is then the slowest worker's own steps and sleeps, which waits
for nobody. A system that is one program for all workers sleeps as the slowest of them.

Each worker makes the same number of steps, and nobody is done before all are.

Columns: `stragglers`, the mean of a sleep a step; `system`, of which `bound` is one for each kind;
`ratio_to_bound`, of worker-steps a second; `steps_per_second`, the worker-steps a second of all
workers. Peers that are not installed are named and passed over: pip install 'jax_ssp[peers]'.

`--only` takes names of peers, with commas; `--size` a model, 0 to 2 for 66 kB, 1 MB and 17 MB;
`--workers` 2 or 4. All of it takes a quarter of an hour (`--quick`: a minute).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.common import arguments, report
from experiments.benchmarks.peers.case import COLUMNS, cases, rows


class Peer(NamedTuple):
    """A system, or some of a kind: the module that has it, and the package that it needs."""

    stack: str
    package: str | None = None


PEERS = {
    "ours": Peer("in_jax"),
    "spmd": Peer("in_jax"),
    "drjax": Peer("in_jax", "drjax"),
    "ddp": Peer("in_torch", "torch"),
    "averager": Peer("in_torch", "torch"),
    "torchft": Peer("in_torch", "torchft"),
    "ray": Peer("in_ray", "ray"),
    "ours-on-ray": Peer("in_ray", "ray"),
}

LONG = ("ours-on-ray",)  # whose runs each begin with processes of their own


def version(peer: Peer) -> str | None:
    """Of its package; None if that is not installed, and "" if it needs none."""
    if peer.package is None:
        return ""
    try:
        return metadata.version(peer.package)
    except metadata.PackageNotFoundError:
        return None


def asked(only: str, quick: bool = False) -> dict[str, Peer]:
    """The peers of these names; if there are none all, but for `LONG` ones where it is quick."""
    names = only.split(",") if only else [name for name in PEERS if not (quick and name in LONG)]
    for name in names:
        if name not in PEERS:
            raise SystemExit(f"--only takes {', '.join(PEERS)}, with commas; got {name!r}.")
    return {name: PEERS[name] for name in names}


def pieces(peers: dict[str, Peer], args: Any) -> Iterator[list[str]]:
    """The options of each process that measures: those of a kind, workers and a model."""
    sizes = (0, 1) if args.quick else (0, 1, 2)
    for stack in dict.fromkeys(peer.stack for peer in peers.values()):
        here = ",".join(name for name, peer in peers.items() if peer.stack == stack)
        for size in sizes if args.size < 0 else (args.size,):
            for workers in (2,) if args.quick else (2, 4):
                if args.workers in (0, workers):
                    words = ["--only", here, "--size", str(size), "--workers", str(workers)]
                    yield [*words, "--stack", stack, *["--quick"] * args.quick]


def measured(args: Any) -> list[dict[str, Any]]:
    """The rows of one process; JAX must not have started yet."""
    stack = import_module(f"{__package__}.{args.stack}")
    if args.stack == "in_jax":
        import jax

        jax.config.update("jax_num_cpu_devices", args.workers)
    found = []
    for case in cases(args.size, args.workers, args.quick):
        with stack.opened(case, asked(args.only).keys()) as systems:
            if len(systems) > 1:  # somebody beside the bound can do that
                found += rows(case, systems, args.quick)
    return found


def measured_apart(words: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a process with these options: JAX cannot change its number of devices."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", __package__, *words, "--json", str(path)]
        subprocess.run(command, check=True, stdout=2)
        return json.loads(path.read_text())


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, argv, only="", size=-1, workers=0, stack="")
    if args.stack:
        args.json.write_text(json.dumps(measured(args)))
        return
    versions = {name: version(peer) for name, peer in asked(args.only, args.quick).items()}
    args.versions = {name: each for name, each in versions.items() if each}
    here = {name: PEERS[name] for name, each in versions.items() if each is not None}
    found = [row for words in pieces(here, args) for row in measured_apart(words)]
    report("peers", COLUMNS, found, args)
    for name in versions.keys() - here.keys():
        print(f"{name} is not installed: pip install 'jax_ssp[peers]'")


if __name__ == "__main__":
    main()
