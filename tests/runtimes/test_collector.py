"""Python looks for garbage seldom while clockwork runs alone, and as often as before after it."""

import gc

import pytest

import jax_ssp as ssp
from jax_ssp.runtimes.collector import YOUNG, collecting_seldom


@pytest.fixture(autouse=True)
def threshold():
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_the_last_run_within_sets_it_back(threshold):
    first, second = collecting_seldom(), collecting_seldom()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] == YOUNG
    second.__exit__(None, None, None)
    assert gc.get_threshold() == threshold


@pytest.mark.parametrize("young", [0, 2 * YOUNG])
def test_who_wants_it_off_or_more_seldom_has_it(young):
    gc.set_threshold(young, 5, 5)
    with collecting_seldom():
        assert gc.get_threshold() == (young, 5, 5)
    assert gc.get_threshold() == (young, 5, 5)


def test_it_is_set_back_where_a_run_fails(threshold):
    during = []

    def delay(worker, clock, steps, rng):
        during.append(gc.get_threshold()[0])
        return -1.0 if clock else 1.0

    with pytest.raises(ValueError, match="non-negative"):
        ssp.train(runtime=ssp.Virtual(2, delay, compute=False), num_clocks=3, progress=False)
    assert set(during) == {YOUNG}
    assert gc.get_threshold() == threshold
