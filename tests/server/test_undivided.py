"""Small merges are compiled without the pass that divides loops, and give the same numbers."""

import jax
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.server import undivided
from jax_ssp.server.server import Server

SHAPE = (300, 257)  # large enough for XLA to divide its loops
TRANSFORMS = {
    "none": lambda: None,
    "clipped momentum": lambda: ssp.outer(
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.7, momentum=0.9))
    ),
}


def merged(transform, trees):
    server = Server(trees[0], server_tx=transform)
    for _ in range(2):
        server.merge(trees[1:], staleness=1, num_workers=3)
    return server.params


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_numbers_are_the_same_to_the_last_bit(name, monkeypatch):
    rng = np.random.default_rng(0)
    trees = [{"w": rng.standard_normal(SHAPE, np.float32)} for _ in range(3)]
    ours = merged(TRANSFORMS[name](), trees)
    monkeypatch.setattr(undivided, "MOST", 0)
    np.testing.assert_array_equal(ours["w"], merged(TRANSFORMS[name](), trees)["w"])


def test_the_pass_is_one_that_xla_has():
    """Else its name would be ignored, and loops divided."""
    arrays = [jax.ShapeDtypeStruct((1 << 20,), np.float32)] * 2
    place = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])

    def text(nbytes):
        options = undivided.compiler_options(place, nbytes)
        return jax.jit(lambda a, b: a + 0.5 * b, compiler_options=options).lower(*arrays).compile()

    small, large = (text(nbytes).as_text() for nbytes in (undivided.MOST, undivided.MOST + 1))
    assert "outer_dimension_partitions" not in small
    assert "outer_dimension_partitions" in large
