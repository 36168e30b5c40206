"""Large batches begin where programs on the CPU read them without a copy."""

import itertools

import jax
import ml_dtypes
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.data.epochs import Epochs
from jax_ssp.data.feed import Feed
from jax_ssp.data.memory import ALIGNMENT, chosen_of, copy_of
from jax_ssp.data.shards import Shards

DTYPES = (np.float32, np.uint8, np.int64, np.bool_, np.complex64, ml_dtypes.bfloat16)
IMAGES = np.random.default_rng(0).normal(size=(64, 40, 41)).astype(np.float32)


def feeds():
    shards = Shards(IMAGES, batch_size=16, num_workers=2)
    epochs = Epochs(IMAGES, batch_size=16)
    foreign = (memoryview(batch) for batch in itertools.repeat(IMAGES))
    return {
        "an iterator": iter([IMAGES[n : n + 16] for n in range(0, 64, 16)]),
        "Shards": shards(0),
        "Epochs": iter([epochs.batch(0, index) for index in range(4)]),
        "another library": foreign,
    }


@pytest.mark.parametrize("name", feeds())
@pytest.mark.parametrize("steps", [1, 3])
def test_a_large_batch_is_read_where_it_is(name, steps):
    batch = Feed(feeds()[name], jax.devices("cpu")[0], worker=0).take(steps)
    assert isinstance(batch, np.ndarray)
    assert batch.ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", [(100, 300), (3,), (9, 0, 2)])
def test_what_is_copied_is_the_same(dtype, shape):
    numbers = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    turned = numbers.T  # in another order in memory
    assert copy_of(turned).tobytes() == turned.copy().tobytes()
    chosen = np.array([2, 0, 2])
    got = chosen_of(numbers, chosen)
    assert got.dtype == dtype
    assert got.tobytes() == numbers[chosen].tobytes()
    assert not np.shares_memory(got, numbers)


MASKED = np.ma.masked_less(IMAGES[:8, 0, 0], 0.0)


@pytest.mark.parametrize("kind", [Epochs, Shards])
def test_a_masked_array_of_examples_is_refused(kind):
    workers = {"num_workers": 2} if kind is Shards else {}
    with pytest.raises(TypeError, match=r"arrays\['x'\] is a masked array.*array\.filled"):
        kind({"x": MASKED}, batch_size=2, **workers)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_masked_batch_is_refused(steps):
    task = {
        "step": ssp.make_step(
            lambda params, batch, key: (params * batch.sum(), {}), optax.sgd(0.1)
        ),
        "params": np.float32(0),
        "data": lambda worker: iter([MASKED] * 4),
    }
    with pytest.raises(TypeError, match="masked arrays are not supported"):
        ssp.train(**task, runtime=ssp.Virtual(1), num_clocks=2, local_steps=steps)
