"""The executor of docs/extending.md, as it stands there: the whole table of modes passes on it."""

import importlib
import sys

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.task import Task
from tests.helpers import drills
from tests.helpers.problems import batches, bits, linear
from tests.runtimes import test_modes as modes

HERE = f"{__name__}:planned"
OTHERS = {
    "cancelled clocks": {"policy": ssp.KSync(2), "num_clocks": 12},
    "data that ends": {"policy": ssp.SSP(2), "num_clocks": 12, "data": lambda w: ended(w)},
}


def ended(worker):
    return (batch for _, batch in zip(range(5 + worker), batches(worker), strict=False))


def spec_of(argument):
    """What `train` needs for a mode and a policy, by their names."""
    mode, _, policy = argument.partition(" with ")
    if mode in OTHERS:
        return linear(**OTHERS[mode])
    return linear(policy=modes.POLICIES[policy], num_clocks=20, **modes.MODES[mode])


def planned(argument):
    """The same in the child, which imports this file by its name."""
    spec = spec_of(argument)
    task = Task(*(spec.pop(name) for name in ("step", "params", "data")))
    runtime = importlib.import_module("child").Child(HERE, argument)
    return Plan(runtime=runtime, **spec), task


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """The module that the page gives."""
    folder = tmp_path_factory.mktemp("drill")
    (block,) = drills.blocks("An executor")
    assert len(block.text.splitlines()) < 150
    drills.follow([block], folder)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("child")
    sys.path.remove(str(folder))


TABLE = [
    pytest.param(
        *(mode, policy), marks=[] if (mode, policy) == ("all", "ssp") else [pytest.mark.slow]
    )
    for mode in modes.MODES
    for policy in modes.POLICIES
]


@pytest.mark.parametrize(("mode", "policy"), TABLE)
@pytest.mark.slow
def test_every_mode_passes_on_it(child, mode, policy):
    runtime = child.Child(HERE, f"{mode} with {policy}")
    modes.test_it_trains_keeps_the_contract_and_replays_to_the_last_bit(
        modes.MODES[mode], modes.POLICIES[policy], runtime
    )


@pytest.mark.parametrize("case", OTHERS)
def test_clocks_are_cancelled_and_data_ends(child, case):
    spec = spec_of(case)
    result = ssp.train(runtime=child.Child(HERE, case), **spec)
    report = ssp.check_contract(result.tape)
    assert report.complete
    assert (report.cancelled > 0) == (case == "cancelled clocks")
    assert result.updates == {"cancelled clocks": 24, "data that ends": 5 + 6 + 7 + 8}[case]
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    np.testing.assert_array_equal(again.schedule, result.schedule)


@pytest.mark.slow
def test_what_fails_in_the_child_ends_the_run_and_the_next_one_is_fine(child):
    with pytest.raises(RuntimeError, match=r"in the child process: KeyError\('no such mode'\)"):
        ssp.train(runtime=child.Child(HERE, "no such mode with ssp"), **spec_of("plain with ssp"))
    runtime = child.Child(HERE, "plain with ssp")
    assert ssp.train(runtime=runtime, **spec_of("plain with ssp")).status == "done"
