"""Trees of 64 bits, for the tests that ask for them."""

import jax
import pytest


@pytest.fixture(params=["float32", pytest.param("float64", marks=pytest.mark.slow)])
def first(request):
    """The widest dtype of the trees of a test, with 64 bits switched on where it needs them."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
