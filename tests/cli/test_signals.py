"""A signal at any moment of a run of the command line: it is heard, and nothing trained is lost.

`python -m tests.cli.test_signals 200` tries so many moments and prints what came of them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import jax_ssp as ssp
from jax_ssp.cli.exits import DONE, INTERRUPTED
from jax_ssp.controller.commands import Merge

CONFIG = '''"""Small least squares."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp


@dataclass(frozen=True)
class Line(ssp.Workload):
    def build(self, num_workers, seed):
        x = np.random.default_rng(seed).normal(size=(64, 3)).astype(np.float32)
        data = ssp.data.Shards((x, x @ np.arange(3, dtype=np.float32)), 4, num_workers, seed)

        def loss_fn(params, batch, key):
            x, y = batch
            return jnp.mean((x @ params["w"] - y) ** 2), {}

        step = ssp.make_step(loss_fn, optax.sgd(0.1))
        evaluate = lambda params: {"norm": jnp.linalg.norm(params["w"])}
        return ssp.Task(step, {"w": jnp.zeros(3)}, data, evaluate)


def get_config():
    return ssp.Experiment(
        name="line", workload=Line(), runtime=RUNTIME, num_clocks=CLOCKS, eval_every=20
    )
'''
RUNTIMES = {
    "virtual": ("ssp.Virtual(num_workers=4)", 300),
    "devices": (
        "ssp.Devices(num_workers=2, cpu_devices=2, delay=ssp.delays.Exponential(0.005))",
        200,
    ),
}
# Says when signals are listened to: before that they are Python's.
STARTER = """
import os, signal
install = signal.signal
def told(number, handler):
    before = install(number, handler)
    if number == signal.SIGTERM:
        signal.signal = install
        os.write(2, b"listening\\n")
    return before
signal.signal = told
from jax_ssp.cli import main
main()
"""


def started(folder: Path, kind: str) -> subprocess.Popen:
    runtime, clocks = RUNTIMES[kind]
    file = folder / "line.py"
    file.write_text(CONFIG.replace("RUNTIME", runtime).replace("CLOCKS", str(clocks)))
    words = [sys.executable, "-c", STARTER, "run", str(file), "--workdir", str(folder / "run")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "listening\n"
    return process


def begun(process: subprocess.Popen, folder: Path) -> None:
    """Wait until the run has a tape, or is over."""
    while process.poll() is None and not (folder / "run" / "tape.jsonl.gz").exists():
        time.sleep(0.005)


def seconds_of_a_run(kind: str) -> tuple[float, float]:
    """How long it takes from when it listens until it has a tape, and from there to its end."""
    with tempfile.TemporaryDirectory() as name:
        since = time.perf_counter()
        process = started(Path(name), kind)
        begun(process, Path(name))
        trains = time.perf_counter()
        process.communicate(timeout=300)
        assert process.returncode == DONE
        return trains - since, time.perf_counter() - trains


def what_is_wrong(
    kind: str, has_tape: bool, signals: list[tuple[float, int]]
) -> tuple[str, list[str]]:
    """Send signals to a run, each so many seconds after the one before.

    The first is that long after it listens, or has a tape. Gives how the run ended, and what is
    wrong with that.
    """
    with tempfile.TemporaryDirectory() as name:
        process = started(Path(name), kind)
        if has_tape:
            begun(process, Path(name))
        sent = 0
        for wait, number in signals:
            time.sleep(wait)
            if process.poll() is None:
                process.send_signal(number)
                sent += 1
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            return "hangs", [f"a signal was swallowed: {process.communicate()[1][-500:]}"]
        wrong = []
        run = Path(name, "run")
        summary, merged = run / "summary.json", 0
        if (run / "tape.jsonl.gz").exists():
            tape = ssp.read_tape(run / "tape.jsonl.gz")
            merged = sum(isinstance(each, Merge) for entry in tape for each in entry.commands)
        how = json.loads(summary.read_text())["status"] if summary.exists() else "not begun"
        if process.returncode != INTERRUPTED and not (process.returncode == DONE and how == "done"):
            wrong.append(f"exit code {process.returncode}")
        if "Traceback" in out + err or "Exception ignored" in out + err:
            wrong.append("a traceback")
        if merged and not (run / "params_manifest.json").exists():
            wrong.append(f"the parameters after {merged} merges are lost")
        if merged and how == "not begun":
            wrong.append("there is no summary")
        if (run / "params_manifest.json").exists():
            ssp.load_params(run)
        if wrong:
            wrong = [f"{kind}, {signals}: {'; '.join(wrong)}\n{out[-300:]}{err[-1500:]}"]
        return f"{how}, {process.returncode}", wrong


def tried(moments: int, seed: int = 0, most: int = 1) -> tuple[Counter[str], list[str]]:
    """Send up to `most` signals to each of so many runs, at random moments.

    A third of them come before there is a tape, and a third while it trains, on a loaded machine
    too: they are counted from when the run has come so far.
    """
    with ThreadPoolExecutor(2) as pool:  # side by side, as what follows
        lengths = dict(zip(RUNTIMES, pool.map(seconds_of_a_run, RUNTIMES), strict=True))

    def one(number: int) -> tuple[str, list[str]]:
        rng = random.Random(f"{seed}, {number}")
        kind = list(RUNTIMES)[number % 2]
        before, after = lengths[kind]
        least, most_seconds = ((0, 0.7 * before), (0, 0.3 * after), (0.3 * after, after))[
            number % 3
        ]
        waits = [rng.uniform(least, most_seconds)]
        waits += [rng.expovariate(1 / 0.3) for _ in range(rng.randint(1, most) - 1)]
        signals = [(wait, rng.choice((signal.SIGINT, signal.SIGTERM))) for wait in waits]
        return what_is_wrong(kind, number % 3 > 0, signals)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, range(moments)))
    return Counter(how for how, _ in found), [each for _, wrong in found for each in wrong]


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 2])
def test_a_signal_at_any_moment_is_heard_and_loses_nothing(most: int) -> None:
    ends, wrong = tried(15, seed=most, most=most)
    assert wrong == []
    assert ends["interrupted, 130"] > 2  # it was not always too early, or too late
    assert ends["not begun, 130"] > 2


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for most in (1, 2):
        ends, wrong = tried(int(sys.argv[1]) // 2, seed=most, most=most)
        print(dict(ends), *wrong, sep="\n")
