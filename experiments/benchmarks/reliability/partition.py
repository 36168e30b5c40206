"""A worker behind a link that is cut: is it given up in time, and is nothing lost or doubled?

    python -m experiments.benchmarks.reliability.partition [--seconds 8] [--cuts 3] [--quick]
        [--json FILE]

Needs Linux, root and `ip`: a second machine of the cluster is a network namespace of this one, at
the other end of a veth pair, with a raylet and the worker in it. The run is a linear model under
SSP(3) with two workers, one on each machine, batches dealt by the ledger, a deadline of 2 seconds,
and a pause before a restart that is longer than a cut. The link is taken down for some seconds, and
up again, so often. At last the tape is checked, and repeated on this machine.

Columns: `cut`, the seconds for which the link is down; `evicted_after`, from the cut to the loss of
the worker (seconds); `clocks_meanwhile`, that the other one has finished from then until the link
is up; `fenced`, pushes from before the cut that came after it; `back_after`, from the link to the
next clock that the worker finishes (seconds). In the last row, of the run: `violations` of the
contract; `doubled` samples, and `missing` ones, which nobody had been given, or was still to be
given, when it ended; `replayed`, whether the tape repeats to the bit.

Expected: evicted within the deadline and a tick; what was under way is fenced; no violations,
nothing doubled or missing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax

import jax_ssp as ssp
from experiments.benchmarks.common import arguments, report
from jax_ssp.controller import DeltaReady, Fence, WorkerLost
from jax_ssp.runtimes.dealing import left_out

COLUMNS = ("what", "cut", "evicted_after", "clocks_meanwhile", "fenced", "back_after")
COLUMNS += ("violations", "doubled", "missing", "replayed")
FAR, HERE, THERE = "ssp-far", "10.77.0.1", "10.77.0.2"
PORT = 6399
DEADLINE, PATIENCE = 2.0, 120.0


def sh(*words: str) -> None:
    """Run a command; CalledProcessError with what it says if it fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(words)}` was refused: {done.stderr.strip()}")


class Link:
    """Two network namespaces, this one and a far one, and a link between them.

    Each address is on a loopback device, so that who is cut off still reaches itself.
    """

    def __enter__(self) -> Link:
        self.__exit__()  # should something be left of one that was killed
        sh("ip", "netns", "add", FAR)
        sh("ip", "link", "add", "ssp0", "type", "veth", "peer", "name", "ssp1", "netns", FAR)
        sh("ip", "address", "add", f"{HERE}/32", "dev", "lo")
        self.far("ip", "address", "add", f"{THERE}/32", "dev", "lo")
        self.far("ip", "link", "set", "lo", "up")
        sh("ip", "link", "set", "ssp0", "up")
        self.up()
        sh("ip", "route", "add", THERE, "dev", "ssp0", "src", HERE)
        return self

    def far(self, *words: str) -> None:
        """Run a command in the far namespace."""
        sh("ip", "netns", "exec", FAR, *words)

    def down(self) -> None:
        """Nothing passes."""
        self.far("ip", "link", "set", "ssp1", "down")

    def up(self) -> None:
        """All passes."""
        self.far("ip", "link", "set", "ssp1", "up")
        self.far("ip", "route", "add", HERE, "dev", "ssp1", "src", THERE)

    def __exit__(self, *raised: object) -> None:
        for words in (
            ("ip", "link", "delete", "ssp0"),
            ("ip", "address", "delete", f"{HERE}/32", "dev", "lo"),
            ("ip", "netns", "delete", FAR),
        ):
            subprocess.run(words, capture_output=True)


class Seen(ssp.Observer):
    """What has happened, and when (`time.monotonic`), for a thread that waits for it."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, Any, bool]] = []
        self.over, self._changed = False, threading.Condition()

    def on_entry(self, now: float, event: Any, commands: Sequence[Any]) -> None:
        late = any(isinstance(each, Fence) for each in commands)
        with self._changed:
            self.rows.append((time.monotonic(), event, late))
            self._changed.notify_all()
        if self.over:
            self.stop("the benchmark is over")

    def wait(self, since: int, wanted: Callable[[Any, bool], bool], times: int = 1) -> float:
        """Wait until rows from that one on have such events so often; gives when the last came."""

        def found() -> list[float]:
            return [at for at, event, late in self.rows[since:] if wanted(event, late)]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= times, PATIENCE):
                raise RuntimeError("it did not happen in time.")
            return found()[times - 1]

    def finished(self, since: int, worker: int, until: float) -> int:
        """How many clocks a worker has finished from that row on, until then."""
        return sum(
            isinstance(event, DeltaReady) and event.worker == worker and at <= until
            for at, event, _ in self.rows[since:]
        )


def strike(link: Link, seen: Seen, seconds: float) -> dict[str, Any]:
    """Cut the link for so long; gives what came of it."""
    for worker in (0, 1):
        seen.wait(len(seen.rows), lambda event, late, w=worker: _pushes(event, late, w), 5)
    first, cut = len(seen.rows), time.monotonic()
    link.down()
    lost = seen.wait(first, lambda event, late: isinstance(event, WorkerLost))
    gone = next(event.worker for _, event, _ in seen.rows[first:] if isinstance(event, WorkerLost))
    since = len(seen.rows)
    time.sleep(max(0.0, seconds - (time.monotonic() - cut)))
    link.up()
    up = time.monotonic()
    others = seen.finished(since, 1 - gone, up)
    back = seen.wait(since, lambda event, late: _pushes(event, late, gone))
    fenced = sum(late for _, _, late in seen.rows[first:])
    return {
        "what": "a cut",
        "cut": up - cut,
        "evicted_after": lost - cut,
        "clocks_meanwhile": others,
        "fenced": fenced,
        "back_after": back - up,
    }


def _pushes(event: Any, late: bool, worker: int) -> bool:
    return isinstance(event, DeltaReady) and event.worker == worker and not late


def ray_start(*words: str) -> list[str]:
    """The command that starts Ray on a machine."""
    program = str(Path(sys.executable).with_name("ray"))
    return [program, "start", "--block", "--num-cpus=1", "--disable-usage-stats", *words]


@contextlib.contextmanager
def ray_on_both() -> Iterator[None]:
    """Ray, on both machines, as long as this lasts."""
    import ray

    head = f"--head --port={PORT} --node-ip-address={HERE} --include-dashboard=false".split()
    head.append(f"--temp-dir={tempfile.mkdtemp(prefix='ssp-')}")  # where nobody looks for a cluster
    other = f"--address={HERE}:{PORT} --node-ip-address={THERE}".split()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words in (ray_start(*head), ["ip", "netns", "exec", FAR, *ray_start(*other)]):
            started.append(subprocess.Popen(words, stdout=subprocess.DEVNULL))
            there = len(started)
            until(lambda: nodes() >= there)  # noqa: B023 (it is called at once)
        yield
    finally:
        ray.shutdown()
        for process in reversed(started):
            process.terminate()
            process.wait(PATIENCE)


def nodes() -> int:
    """How many machines the cluster has, as far as it can be reached."""
    import ray

    try:
        if not ray.is_initialized():
            ray.init(address=f"{HERE}:{PORT}", _node_ip_address=HERE, logging_level="ERROR")
    except ConnectionError:  # it is not there yet
        return 0
    return sum(each["Alive"] for each in ray.nodes())


def until(there: Callable[[], bool]) -> None:
    """Wait for something; RuntimeError if it does not come."""
    end = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > end:
            raise RuntimeError("Ray did not start in time.")
        time.sleep(0.2)


def loss_fn(params: Any, batch: Any, key: Any) -> Any:
    """Of a linear model."""
    x, y = batch
    loss = ((x @ params["w"] - y) ** 2).mean()
    return loss, {}


def run(link: Link, seconds: float, cuts: int) -> list[dict[str, Any]]:
    """Train while the link is cut so often; gives a row for each cut, and one of the run."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype(np.float32)
    spec: dict[str, Any] = {
        "step": ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5)),
        "params": {"w": np.zeros(8, np.float32)},
        "data": ssp.data.Epochs((x, x @ np.arange(8, dtype=np.float32)), batch_size=4),
        "policy": ssp.SSP(bound=3),
        "num_clocks": 10**6,
    }
    seen, rows, failed = Seen(), list[dict[str, Any]](), list[BaseException]()

    def strikes() -> None:
        try:
            for _ in range(cuts):
                rows.append(strike(link, seen, seconds))
        except BaseException as error:  # raised below
            failed.append(error)
        seen.over = True

    recovery = ssp.Recovery(restarts=10**6, backoff=seconds + 3.0, deadline=DEADLINE)
    runtime = ssp.Ray(
        2, address=f"{HERE}:{PORT}", recovery=recovery, delay=ssp.delays.Constant(0.1)
    )
    thread = threading.Thread(target=strikes)
    thread.start()
    result = ssp.train(runtime=runtime, observers=[seen], progress=False, **spec)
    thread.join()
    if failed:
        raise failed[0]
    return [*rows, judged(result, spec)]


def judged(result: ssp.Result, spec: dict[str, Any]) -> dict[str, Any]:
    """What the whole run says."""
    violations = 0
    try:
        ssp.check_contract(result.tape)
    except ssp.ContractViolation:
        violations = 1
    again = ssp.train(runtime=ssp.Replay(result.tape), progress=False, **spec)
    same = np.asarray(again.params["w"]).tobytes() == np.asarray(result.params["w"]).tobytes()
    return {
        "what": "the run",
        "fenced": sum(any(type(each) is Fence for each in row[2]) for row in result.tape),
        "violations": violations,
        "doubled": result.data.twice,
        "missing": sum(epoch.never for epoch in left_out(result.tape)),
        "replayed": same,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Cut, look, and report."""
    args = arguments(__doc__, argv, seconds=8.0, cuts=3)
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # of a cluster that nothing else can reach
    with Link() as link, ray_on_both():
        rows = run(link, args.seconds, 1 if args.quick else args.cuts)
    report("partition", COLUMNS, [dict.fromkeys(COLUMNS, "") | row for row in rows], args)


if __name__ == "__main__":
    main()
