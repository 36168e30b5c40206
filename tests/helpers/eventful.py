"""A config file in whose run something happens, and whether its folder is whole after all."""

from pathlib import Path

import jax_ssp as ssp
from jax_ssp.cli.exits import DONE
from tests.helpers.command_line import jax_ssp

# What happens at an evaluation after the first, at a batch, or while the experiment is built.
EVENTS = """

from pathlib import Path
import os, shutil, signal, sys

HERE = Path(__file__).parent
RUN = HERE / "run"

def happens():
    if (HERE / "once").exists():  # not in a replay
        return
    (HERE / "once").touch()
    EVENT

class Eventful(Line):
    def build(self, num_workers, seed):
        if WHERE == "build":
            happens()
        task = super().build(num_workers, seed)
        def data(worker):
            for number, batch in enumerate(task.data(worker)):
                if WHERE == "data" and number == 6:
                    happens()
                yield batch
        def evaluate(params):
            if WHERE == "evaluation" and params["w"].any():
                happens()
            return task.evaluate(params)
        return ssp.Task(task.step, task.params, data, evaluate)

def get_config():
    if WHERE == "config":
        happens()
    return ssp.Experiment(
        name="line",
        workload=Eventful(),
        runtime=ssp.Virtual(num_workers=4, delay=ssp.delays.Exponential(mean=1.0)),
        num_clocks=20,
        eval_every=5,
    )
"""


def is_whole(run: Path, merges: int = 80) -> None:
    """Whether nothing is missing in a folder."""
    written = ssp.read_run(run)
    assert written.status == "done"
    assert written.summary["updates"] == len(written.history) == merges
    assert written.tape.complete
    assert ssp.check_contract(written.tape).merged == merges
    assert jax_ssp("replay", run, "--file", run.parent / "line.py") == DONE
