"""What layout says of arrays by themselves; what it does to statistics is in tests/runtimes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ssp.layout import all_finite

SHAPES = [(), (3,), (5, 0), (5000,), (80, 70), (7, 30, 40), (5000, 1), (1, 5000), (0,)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_number_that_is_not_finite_is_found_wherever_it_is(shape, dtype):
    rng = np.random.default_rng(0)
    largest = float(jnp.finfo(dtype).max)
    leaf = jnp.asarray(np.where(rng.random(shape) < 0.5, largest, -largest), dtype)
    check = jax.jit(all_finite)
    assert check([leaf, jnp.ones(2)])  # the largest numbers are finite, and so are their sums
    for bad in (np.nan, np.inf, -np.inf):
        if leaf.size:
            spoilt = np.array(leaf)
            spoilt.reshape(-1)[rng.integers(leaf.size)] = bad
            assert not check([jnp.ones(2), jnp.asarray(spoilt)])
            assert not jax.vmap(all_finite)([jnp.stack([leaf, jnp.asarray(spoilt)])])[1]


def test_of_no_arrays_all_are():
    assert all_finite([])
