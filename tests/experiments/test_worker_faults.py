"""The program that raises faults in workers: nothing hangs, and nothing of the others is lost."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from experiments.benchmarks.reliability import worker_faults
from experiments.benchmarks.reliability.worker_faults import (
    PHASES,
    Faults,
    compared,
    lost_steps,
    of_all,
    outcome,
)
from tests.helpers.problems import batches, distance, loss_fn

TASK = {
    "step": ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5)),
    "params": {"w": jnp.zeros(6)},
    "data": batches,
    "evaluate": lambda params: {"distance": distance(params)},
}


def struck(phase, seed, clocks, count, workers=3):
    """What comes of a run with these faults, of which all that can strike do."""
    faults = Faults.drawn(phase, seed, workers, clocks, count)
    came = outcome(TASK, faults, workers, clocks)
    assert came.same
    assert came.lost_steps == 0
    assert came.again >= came.faults - workers  # the run may be over before one is there again
    return came


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.every(3)
def test_nothing_hangs_or_is_lost_and_the_tape_replays(phase):
    assert struck(phase, seed=1, clocks=15, count=4).faults >= 1


@pytest.mark.slow
def test_two_hundred_faults_in_each_phase_leave_nothing_behind():
    for phase in PHASES:
        faults = seed = 0
        while faults < 67:
            came = struck(phase, seed, clocks=50, count=10)
            assert came.accuracy < 0.5  # how far it is from the answer
            faults, seed = faults + came.faults, seed + 1


def test_lost_steps_are_those_of_clocks_that_came_to_nothing():
    run = ssp.train(runtime=ssp.Virtual(2, compute=False), policy=ssp.SSP(1), num_clocks=4)
    assert lost_steps(run.tape) == 0
    assert lost_steps(list(run.tape)[:-3]) > 0


def test_what_hangs_is_seen():
    wait = worker_faults.threading.Event()
    assert worker_faults.in_time(lambda: wait.wait(60), seconds=0.01) is None
    wait.set()
    with pytest.raises(LookupError):
        worker_faults.in_time(lambda: {}["nothing"])


def test_faults_are_drawn_by_the_seed_and_strike_the_data_once():
    first, again = (Faults.drawn("data", 3, workers=2, clocks=12, count=4) for _ in range(2))
    assert first._left == again._left
    assert Faults.drawn("step", 3, 2, 12, 4).raised() != Faults.drawn("step", 4, 2, 12, 4).raised()
    data = Faults("data", [(0, 1)]).data(lambda worker: iter(np.arange(3)))
    got = data(0)
    assert next(got) == 0
    with pytest.raises(OSError, match="batch 1 of worker 0 cannot be read"):
        next(got)
    assert list(data(0)) == [0, 1, 2]


def test_accuracies_are_compared_pair_by_pair():
    with_faults, without = [0.97, 0.99, 0.98], [0.98, 0.99, 1.0]
    pairs = [
        dict(zip(("with", "without"), each, strict=True))
        for each in zip(with_faults, without, strict=True)
    ]
    row = dict.fromkeys(worker_faults.COLUMNS[1:-4], 0)
    both = of_all([{**row, "runs": 1, "pairs": pairs[:1]}, {**row, "runs": 2, "pairs": pairs[1:]}])
    assert both["runs"] == 3
    assert {name: both[name] for name in compared(pairs)} == compared(pairs)
    assert both["lower"] == pytest.approx(0.01)
    assert both["interval"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)  # t of 2 degrees
    assert compared(pairs[:1])["interval"] == 0.0
    assert compared([]) == dict.fromkeys(("accuracy", "without", "lower", "interval"), 0.0)
