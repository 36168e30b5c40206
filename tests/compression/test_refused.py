"""What no wire format can send or take is refused, by its path and with the remedy."""

import jax.numpy as jnp
import pytest

from jax_ssp.compression import compress, residual_of
from tests.helpers.formats import everyone, formats


@everyone
@pytest.mark.parametrize("leaf", [jnp.arange(3), jnp.ones(3, bool)])
@pytest.mark.every(7)
def test_what_is_not_floating_point_is_refused_by_its_path(format, leaf):
    tree = {"a": jnp.ones(2), "n": [leaf]}
    message = rf"`(tree|like)\['n'\]\[0\]` is {leaf.dtype}; only floating-point arrays"
    with pytest.raises(TypeError, match=message):
        residual_of(tree)
    with pytest.raises(TypeError, match=message):
        format.encode(tree)
    with pytest.raises(TypeError, match=message):
        compress(format, tree, {"a": jnp.zeros(2), "n": [jnp.zeros(3)]})
    good = {"a": jnp.ones(2), "n": [jnp.ones(3)]}
    with pytest.raises(TypeError, match=message):
        format.decode(format.encode(good), like=tree)


@everyone
@pytest.mark.parametrize(
    "residual",
    [
        {"w": jnp.zeros(3)},
        {"w": jnp.zeros((1, 3)), "b": jnp.zeros(())},
        {"w": jnp.zeros(1), "b": jnp.zeros(())},
        {"w": jnp.zeros(3, jnp.bfloat16), "b": jnp.zeros(())},
        [jnp.zeros(()), jnp.zeros(3)],
    ],
)
def test_a_residual_that_does_not_fit_is_refused(format, residual):
    tree = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(())}
    with pytest.raises(ValueError, match=r"`residual` does not fit `tree`.*`residual_of\(tree\)`"):
        compress(format, tree, residual)


@formats
@pytest.mark.every(11)
def test_a_message_of_something_else_is_refused(format):
    message = format.encode({"w": jnp.ones((3, 4)), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match="the message holds 2 leaves, `like` has 1"):
        format.decode(message, like={"w": jnp.ones((3, 4))})
    with pytest.raises(ValueError, match=r"the message holds .* where `like` has"):
        format.decode(message, like={"w": jnp.ones((3, 50)), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"the message holds .* where `like` has"):
        format.decode(message, like={"w": jnp.ones((3, 4)), "b": jnp.ones(20)})


@everyone
def test_a_number_too_large_for_float32_is_refused(format):
    with pytest.raises(ValueError, match=r"`tree` must hold numbers of at most .*, got 1e\+300"):
        format.encode({"w": 1e300})
