"""A run that is saved is saved once more at its end, and goes on there if its ends are raised."""

import optax
import pytest

import jax_ssp as ssp
from jax_ssp import faults
from jax_ssp.controller import StartClock
from jax_ssp.server.local_store import LocalStore
from jax_ssp.training.run import run
from tests.helpers.broken_off import Memory, broken_off, parts
from tests.helpers.problems import bits, linear, loss_fn
from tests.helpers.stores import storing
from tests.helpers.terms import without_terms

MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.05, momentum=0.9))
WORLDS = {
    "virtual": ssp.Virtual(3, ssp.delays.Exponential(), seed=2),
    "virtual, batched": ssp.Virtual(4, ssp.delays.Exponential(), batch=4),
    "devices": ssp.Devices(num_workers=2, workers_per_device=2),
}
MODES = {
    "plain": {},
    "overlap": {"overlap": 1, "local_steps": 2},
    "mix": {"overlap": 1, "local_steps": 2, "adopt": ssp.Mix(0.5)},
}


def kept(spec):
    """A run, and its cuts."""
    plan, task, observers = parts(spec)
    memory = Memory(clocks=10**9)
    return run(plan, task, observers, keeper=memory), memory.cuts


def raised(spec, result, cut, num_clocks):
    """The run goes on from a cut after its last row, with a higher end."""
    plan, task, observers = parts({**spec, "num_clocks": num_clocks})
    past = broken_off(result, len(result.tape), cut, parts(spec)[0])
    past = past._replace(ends=plan.ends)
    return run(plan, task, observers, keeper=Memory(10**9, past))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.every(11)
def test_nothing_is_computed_again_where_the_end_of_a_run_is_raised(world, mode):
    """What comes is the same as if all had been computed again, which is done from version 0."""
    pushed = []

    class Counts(LocalStore):
        def push(self, event, payload, metrics):
            pushed.append(event)
            super().push(event, payload, metrics)

    runtime = storing(WORLDS[world], Counts)
    spec = linear(step=MOMENTUM, policy=ssp.BSP(), num_clocks=3, runtime=runtime, **MODES[mode])
    result, cuts = kept(spec)
    assert [made.rows for made in cuts] == [len(result.tape)]
    workers = runtime.count()
    counts = {}
    for name, cut in {"there": cuts[0], "from the start": None}.items():
        pushed.clear()
        counts[name] = again = raised(spec, result, cut, 5)
        assert len(pushed) == workers * (2 if cut else 5)
        assert (again.status, again.updates) == ("done", 5 * workers)
        ssp.check_contract(again.tape)
    there, anew = counts.values()
    assert bits(there.params) == bits(anew.params)
    assert bits(there.states) == bits(anew.states)
    assert len(there.history) == len(anew.history)
    if world.startswith("virtual"):
        assert list(without_terms(there.tape)) == list(without_terms(anew.tape))
        assert there.history == anew.history


@pytest.mark.parametrize(
    ("how", "same"),
    [
        ({}, True),
        ({"adopt": ssp.Mix(0.5)}, True),
        ({"overlap": 1, "local_steps": 2}, False),  # nobody had run ahead of the end
        ({"fragments": 2}, False),  # all of them are adopted after it
    ],
    ids=str,
)
@pytest.mark.every(4)
def test_at_barriers_a_run_that_had_ended_is_the_one_that_never_had_but_in_what_the_docs_say(
    how, same
):
    spec = linear(step=MOMENTUM, policy=ssp.BSP(), runtime=WORLDS["virtual"], **how)
    result, cuts = kept({**spec, "num_clocks": 3})
    again = raised({**spec, "num_clocks": 3}, result, cuts[0], 6)
    whole = ssp.train(**{**spec, "num_clocks": 6})
    assert (bits(again.params) == bits(whole.params)) is same
    if "fragments" in how:
        after = [each for entry in again.tape for each in entry.commands if _begins(each, 3)]
        assert [each.whole for each in after] == [True] * 3


def _begins(command, clock):
    return type(command) is StartClock and command.clock == clock


def test_a_run_with_too_few_workers_saves_what_it_has_and_goes_on_there():
    recovery = ssp.Recovery(restarts=0, min_workers=2)
    runtime = ssp.Devices(
        num_workers=2, workers_per_device=2, faults=[faults.Raise(1, 3)], recovery=recovery
    )
    spec = linear(step=MOMENTUM, policy=ssp.SSP(1), num_clocks=9, runtime=runtime)
    result, cuts = kept(spec)
    assert result.status == "too few workers"
    assert result.reason.startswith("1 left of at least 2; worker 1 was lost (step: ")
    assert cuts[-1].rows == len(result.tape)
    again = raised(spec, result, cuts[-1], 9)
    assert again.status == "done"
    assert again.updates > result.updates
    ssp.check_contract(again.tape)
    replayed = ssp.train(**{**spec, "runtime": ssp.Replay(again.tape)})
    assert bits(replayed.params) == bits(again.params)


def test_a_run_that_has_diverged_leaves_its_checkpoints_as_they_are():
    spec = linear(policy=ssp.BSP(), num_clocks=9, runtime=ssp.Virtual(2), max_nonfinite=None)
    result, cuts = kept({**spec, "server_tx": optax.scale(float("nan"))})
    assert (result.status, cuts) == ("diverged", [])
