"""A run of the digits in virtual time that saves itself, to be killed and run again.

    python -m experiments.benchmarks.reliability.victim FOLDER --trace FILE [--clocks N]
        [--faults WORD ...] [--each-row]

It appends lines of JSON to the trace: where it goes on (`rows` of the tape without those that say
so, `cut` and `digest`, of everything that it then is), and at its end its `status` and the
fingerprint of its parameters. With `--each-row` the digest of every row is written: what the others
are compared with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jax_ssp as ssp
from experiments.workloads.digits import Digits
from jax_ssp.controller.events import Resumed, Token
from jax_ssp.report import timeline
from jax_ssp.runtimes.cut import cut
from jax_ssp.runtimes.loop import Loop
from jax_ssp.runtimes.resuming import Resuming

WORKERS = 4


def experiment(folder: Path, clocks: int, faults: Sequence[str], every: int) -> ssp.Experiment:
    """SSP on the digits, with state everywhere: an optimizer each, momentum, error feedback."""
    return ssp.Experiment(
        name="victim",
        workload=Digits(),
        policy=ssp.SSP(bound=3),
        server_tx=ssp.configured(outer_momentum, learning_rate=0.7, momentum=0.9),
        delta_wire=ssp.compression.Int8(),
        runtime=ssp.Virtual(
            WORKERS, ssp.delays.Exponential(1.0), faults=ssp.faults.from_words(faults)
        ),
        num_clocks=clocks,
        eval_every=50,
        checkpoint=ssp.Checkpoints(folder, every=every),
    )


def outer_momentum(learning_rate: float, momentum: float) -> optax.GradientTransformation:
    """SGD with momentum on the server, of the merged deltas."""
    return ssp.outer(optax.sgd(learning_rate, momentum=momentum))


def digest(loop: Loop) -> str:
    """Of everything that a run is now, but for the term of its tokens."""
    states = loop.executor.kept(loop.fold.running)
    assert states is not None  # as always in virtual time
    made = cut(loop, states)
    found = hashlib.sha256()
    for name in sorted(made.arrays):
        array = np.asarray(made.arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    facts = _without_terms({**made.facts, "metrics": [each[1:] for each in made.facts["metrics"]]})
    found.update(json.dumps(facts, sort_keys=True).encode())
    return found.hexdigest()


def _without_terms(facts: Any) -> Any:
    if isinstance(facts, Token):
        return facts.grant
    if isinstance(facts, dict):
        return {name: _without_terms(value) for name, value in facts.items()}
    return list(map(_without_terms, facts)) if isinstance(facts, (list, tuple)) else facts


def rows_of(loop: Loop) -> int:
    """Of its tape, but for those that say that it was resumed."""
    return sum(not isinstance(event, Resumed) for _, event, _ in loop.tape)


def watched(trace: Any, each_row: bool) -> None:
    """Have whatever goes on in this process say so in the trace."""
    resume, take = Resuming.run, Loop.take

    def resuming(self: Any) -> None:
        resume(self)
        loop, past = self._loop, self._past
        about = {"rows": rows_of(loop), "cut": 0 if past.cut is None else past.cut.rows}
        _write(trace, {**about, "tape": len(past.tape), "digest": digest(loop)})

    def taking(self: Any, *what: Any) -> None:
        before = len(self.tape)
        take(self, *what)
        if len(self.tape) > before:
            _write(trace, {"rows": len(self.tape), "digest": digest(self)})

    timeline.run_summary = lambda *_: None  # pictures would take most of the time
    Resuming.run = resuming  # pyright: ignore[reportAttributeAccessIssue]
    if each_row:
        Loop.take = taking  # pyright: ignore[reportAttributeAccessIssue]


def _write(trace: Any, line: dict[str, Any]) -> None:
    trace.write(json.dumps(line) + "\n")
    trace.flush()


class Begun(ssp.Observer):
    """Says that the run has begun, for who means to kill it."""

    def __init__(self, trace: Any) -> None:
        self._trace = trace
        self._said = False

    def on_clock(self, row: Any) -> None:
        if not self._said:
            _write(self._trace, {"begun": True})
            self._said = True


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--clocks", type=int, default=400)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--faults", nargs="*", default=())
    parser.add_argument("--each-row", action="store_true")
    args = parser.parse_args(argv)
    with args.trace.open("a", encoding="utf-8") as trace:
        watched(trace, args.each_row)
        run = experiment(args.folder, args.clocks, args.faults, args.every)
        result = run.run([Begun(trace)], progress=False)
        about = {"status": result.status, "params": result.tape.params}
        counts = json.loads((args.folder / "summary.json").read_text()).get("checkpoints", {})
        _write(trace, {**about, "rows": len(result.tape), "checkpoints": counts})
    jax.clear_caches()
    return 0


if __name__ == "__main__":
    sys.exit(main())
