"""Whether anything is lost or doubled, over many simulated runs that are stopped anywhere.

    python -m experiments.benchmarks.reliability.simulate [--seeds 20000] [--first N] [--jobs 2]
        [--state FILE] [--json FILE] [--quick]

Each seed is a run of the real controller, loop and tape with a store of integers and a disk in
memory; see `jax_ssp.testing.simulation` for what happens to it and what is checked. A seed that
goes wrong is shrunk and printed, and the program ends with 1. With `--state` it writes where it is,
and the same command goes on there. A seed takes about 5 ms of a processor.

Expected: no seed goes wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.common import described
from jax_ssp.files import write_json
from jax_ssp.testing.simulation import Progress, run_many

QUICK = 200  # seeds


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    began, said, shown = time.monotonic(), 0.0, 0
    done = Progress(args.first)
    seeds = min(args.seeds, QUICK) if args.quick else args.seeds
    for done in run_many(args.first, seeds, args.jobs, args.state):
        for text in done.failures[shown:]:
            print(text, flush=True)
        shown = len(done.failures)
        now = time.monotonic() - began
        if now - said > 10:
            said = now
            print(f"{done.done} of {seeds} seeds, {done.wrong} wrong", file=sys.stderr, flush=True)
    each = 1e3 * done.seconds / max(1, done.done)
    about = ", ".join(f"{count} {name}" for name, count in done.counts._asdict().items())
    print(f"seeds {args.first} to {args.first + done.done - 1}: {done.wrong} go wrong; {about}")
    print(f"{each:.2f} ms of a processor a seed, {time.monotonic() - began:.0f} s")
    if args.json is not None:
        meta = described("simulate", args)
        write_json(args.json, {"meta": meta, **done.facts(), "ms_a_seed": each})
    return 1 if done.wrong else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument("--state", type=Path, metavar="FILE", help="write there where it is")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what came of it there")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} seeds at most")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
