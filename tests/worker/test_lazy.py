"""Clocks that are computed when they are needed: one alone, or several in one program."""

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.worker.program import Program
from tests.helpers.problems import linear

POLICIES = {"ssp": ssp.SSP(2), "lazy": ssp.SSP(2, "lazy"), "asp": ssp.ASP(), "bsp": ssp.BSP()}


def batched(batch, **others):
    return ssp.train(runtime=ssp.Virtual(9, delays.Exponential(), batch=batch), **linear(**others))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("local_steps", [1, 2])
@pytest.mark.every(23)
def test_a_batch_of_workers_gives_what_they_give_alone(policy, local_steps, overlap):
    spec = {"policy": policy, "num_clocks": 30, "local_steps": local_steps, "overlap": overlap}
    alone, together = (batched(batch, **spec) for batch in (1, 8))
    np.testing.assert_allclose(alone.params["w"], together.params["w"], rtol=1e-4)
    assert list(alone.tape) == list(together.tape)
    assert alone.history[0]["metrics"].keys() == together.history[0]["metrics"].keys()


def test_it_is_a_batch(monkeypatch):
    sizes, run = [], Program.run_together

    def spy(self, steps, inputs):
        sizes.append(len(inputs))
        return run(self, steps, inputs)

    monkeypatch.setattr(Program, "run_together", spy)
    result = batched(8, policy=ssp.BSP(), num_clocks=4)
    assert len(result.history) == 36
    assert sizes == [8] * 4  # and one alone each time


@pytest.mark.parametrize("mode", [{"overlap": 1}, {"adopt": ssp.Mix(0.5)}], ids=repr)
def test_a_clock_that_goes_on_from_the_last_is_computed_alone(mode, monkeypatch):
    def never(self, steps, inputs):
        raise AssertionError("each has progress of its own to begin with")

    first = batched(8, policy=ssp.BSP(), num_clocks=1, **mode)
    assert len(first.history) == 9
    if "adopt" in mode:
        monkeypatch.setattr(Program, "run_together", never)
    assert len(batched(8, policy=ssp.BSP(), num_clocks=3, **mode).history) == 27
