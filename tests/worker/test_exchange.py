"""What a worker adds its own deltas with."""

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.worker.exchange import Exchange


@pytest.mark.parametrize(
    ("rule", "weight", "workers", "share"),
    [
        ("mean", 0.25, 4, 0.25),
        ("merged", 1.0, 4, 1.0),
        ("sum", 1.0, 4, 0.25),  # whatever the weight, statistics do not leave their range
        (3.0, 3.0, 4, 0.25),
    ],
)
def test_factors_are_the_weight_and_the_share_of_statistics(rule, weight, workers, share):
    found = Exchange(weight=rule).factors(weight, workers)
    assert [float(each) for each in found] == [weight, share]
    assert {each.dtype for each in found} == {np.dtype(np.float32)}


def test_alpha_is_that_of_a_mix():
    assert Exchange().alpha is None
    assert float(Exchange(adopt=ssp.Mix(0.25)).alpha) == 0.25
