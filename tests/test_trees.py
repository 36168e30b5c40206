"""What is asked of the numbers of a tree: each thing once, for the whole house."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ssp.trees import all_finite, digest, is_finite, squared_norm, weighted, wide

SHAPES = [(), (3,), (5, 0), (5000,), (80, 70), (7, 30, 40), (5000, 1), (1, 5000), (0,)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.every(41)
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
    assert is_finite({})


def test_the_answer_may_be_asked_for_at_once():
    assert is_finite({"w": np.ones(3), "z": 1 + 1j}) is True
    assert is_finite({"w": np.ones(3), "z": complex(0, np.inf)}) is False


@pytest.mark.parametrize(
    ("dtype", "sums"),
    [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32")],
)
def test_sums_are_taken_in_at_least_float32(dtype, sums):
    assert wide(jnp.dtype(dtype)) == sums
    assert weighted(np.ones(2, dtype), np.float32(0.5)).dtype == sums


def test_the_norm_of_a_complex_number_is_that_of_its_parts():
    assert float(squared_norm({"z": jnp.array([3 + 4j]), "w": jnp.array([2.0])})) == 29.0


def test_a_digest_tells_dtypes_and_shapes_apart():
    arrays = [np.zeros(4, np.float32), np.zeros(4, np.int32), np.zeros((2, 2), np.float32), "0000"]
    assert len({digest(each) for each in arrays}) == 4
    assert digest(jnp.arange(3)) == digest(np.arange(3, dtype=np.int32))
