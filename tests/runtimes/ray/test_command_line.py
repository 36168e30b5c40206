"""`jax-ssp run` on a cluster: a file of one's own, and a driver that is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

import jax_ssp as ssp

pytestmark = pytest.mark.ray

COMMAND = "from jax_ssp.cli import main; main()"
CONFIG = """
import sys
import jax.numpy as jnp, numpy as np, optax
import jax_ssp as ssp

def loss(params, batch, key):
    return jnp.mean((params["w"] - batch) ** 2), {}

def data(worker):
    if "default_worker" in sys.argv[0]:  # a process of Ray's, in a copy of what is shipped
        with open("here.txt") as file:
            assert file.read() == "shipped"
    for n in range(10**6):
        yield np.full(3, worker + n % 5, np.float32)

class Mine(ssp.Workload):
    def build(self, num_workers, seed):
        return ssp.Task(ssp.make_step(loss, optax.adam(0.01)), {"w": jnp.zeros(3)}, data)

def get_config():
    return ssp.Experiment(
        workload=Mine(),
        runtime=ssp.Ray(2, delay=ssp.delays.Constant(0.05)),
        policy=ssp.SSP(2),
        num_clocks=200,
        checkpoint=ssp.Checkpoints(every=5),
    )
"""


def command(*words):
    """The command in a process of its own, of which its group is told apart."""
    line = [sys.executable, "-c", COMMAND, *map(str, words)]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def saved(run):
    """How many checkpoints there are."""
    return len(list((run / "checkpoints").glob("[0-9]*")))


def test_a_driver_that_is_killed_goes_on_by_the_same_command(tmp_path):
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(CONFIG)
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "here.txt").write_text("shipped")
    words = "run", file, "--workdir", run, "--runtime.working-dir", shipped
    first = command(*words)
    until = time.monotonic() + 300
    while saved(run) < 2 and time.monotonic() < until and first.poll() is None:
        time.sleep(0.1)
    assert first.poll() is None, first.communicate()[0].decode()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert saved(run) >= 2
    again = command(*words)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said.decode()
    tape = ssp.read_tape(run / "tape.jsonl.gz")
    assert tape.complete
    ssp.check_contract(tape)
    checked = command("replay", run)
    said, _ = checked.communicate(timeout=400)
    assert checked.returncode == 0, said.decode()
    assert "the same to the last bit" in said.decode()


@pytest.mark.slow
@pytest.mark.parametrize("controller", ["driver", "actor"])
def test_a_scheduler_that_asks_it_to_end_has_it_saved(tmp_path, controller):
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(CONFIG.replace('"default_worker" in sys.argv[0]', "False"))
    words = "run", file, "--workdir", run, "--runtime.controller", controller
    first = command(*words)
    until = time.monotonic() + 300
    while saved(run) < 1 and time.monotonic() < until and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=200)
    assert first.returncode == 75, said.decode()
    assert ssp.read_run(run).status == "interrupted"
    again = command(*words)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said.decode()
    tape = ssp.read_tape(run / "tape.jsonl.gz")
    assert (tape.complete, tape.resumes) == (True, 1)
    ssp.check_contract(tape)
