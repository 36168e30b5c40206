"""Small trees for servers, and a transform that puts what it is told in place of the delta."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

EXTRAS = ("staleness", "lag", "worker", "num_workers", "round")


def tree(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(3, 2)).astype(np.float32),
        "b": rng.normal(size=2).astype(np.float32),
    }


def on_device(arrays):
    return jax.tree.map(jnp.asarray, arrays)


def assert_close(params, expected):
    assert params.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(params[name], expected[name], rtol=2e-6, atol=1e-6)


def reader(traces: list) -> optax.GradientTransformationExtraArgs:
    """Puts what it is told in place of the delta, and notes how it was told at each trace."""

    def update(updates, state, params=None, **extras):
        traces.append({name: (extras[name].dtype, extras[name].shape) for name in extras})
        return {"told": jnp.stack([extras[name] for name in EXTRAS]).astype(jnp.float32)}, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
