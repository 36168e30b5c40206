"""A replica is all of a worker: put into a fresh one between two clocks, it goes on to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.data.feed import Feed
from jax_ssp.worker.worker import Worker
from tests.helpers.problems import PARAMS, batches, bits
from tests.runtimes import test_modes as modes

SGD = optax.sgd(0.03, momentum=0.5)


def noisy_loss(params, batch, key):
    x, y = batch
    noise = 0.1 * jax.random.normal(key, y.shape, jnp.float32)
    return jnp.mean((x @ params["w"] - y - noise) ** 2), {}


class Tracker:
    """Trains `w`, and averages what it sees."""

    init = staticmethod(SGD.init)
    averaged = staticmethod(lambda params: {"w": False, "mean": True})

    def __call__(self, params, state, batch, key):
        (x, y), trained = batch, {"w": params["w"], "mean": jnp.zeros_like(params["mean"])}
        grads = jax.grad(lambda params: jnp.mean((x @ params["w"] - y) ** 2))(trained)
        delta, state = SGD.update(grads, state)
        return {**delta, "mean": 0.5 * (x[0] - params["mean"])}, state, {}


STEPS = {"noisy": ssp.make_step(noisy_loss, SGD), "averaged": Tracker()}
PARAMETERS = {"noisy": PARAMS, "averaged": {**PARAMS, "mean": np.zeros(6, np.float32)}}
# Those of the worlds' table that a replica has a part in, and two more.
MODES = {name: mode for name, mode in modes.MODES.items() if name != "one device"} | {
    "mix at the end": {"adopt": ssp.Mix(0.25)},
    "random wire": {"delta_wire": ssp.compression.RandK(1 / 3)},
}
POLICIES = {"ssp": ssp.SSP(2), "lazy": ssp.SSP(2, "lazy"), "cancels": ssp.KSync(2)}


def through_the_host(leaf):
    """A leaf as a file would have it, and back; what is no array is kept."""
    if not isinstance(leaf, jax.Array):
        return leaf
    (device,) = leaf.devices()
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jnp.array(np.array(jax.random.key_data(leaf)))
        return jax.device_put(jax.random.wrap_key_data(data), device)
    return jax.device_put(np.array(leaf), device, may_alias=False)


@pytest.fixture
def moving(monkeypatch):
    """Every worker is made anew before each of its clocks, with nothing but a replica's numbers."""
    begin, moved = Worker.begin, []

    def renewed(self, *arguments):
        replica = jax.tree.map(through_the_host, self.take_out())
        parts = self.index, self.seat, self.program, Feed(batches(self.index), self.device, 0)
        others = self.exchange, self.wire, self.memory
        vars(self).clear()
        self.__init__(*parts, *others, replica)
        moved.append(replica)
        return begin(self, *arguments)

    def on():
        monkeypatch.setattr(Worker, "begin", renewed)
        return moved

    return on


# Every mode in the quick loop, with a step and a policy in turn; the rest in CI.
CASES = [
    pytest.param(
        *(step, mode, policy),
        id=f"{step}-{mode}-{policy}",
        marks=[] if (j % 2, j % 3) == (i, k) else [pytest.mark.slow],
    )
    for i, step in enumerate(STEPS)
    for j, mode in enumerate(MODES)
    for k, policy in enumerate(POLICIES)
    if modes.fits(MODES[mode], POLICIES[policy])
]


@pytest.mark.parametrize(("step", "mode", "policy"), CASES)
@pytest.mark.every(17)
def test_the_run_goes_on_to_the_bit(step, mode, policy, moving):
    spec = {
        "step": STEPS[step],
        "params": PARAMETERS[step],
        "data": batches,
        "policy": POLICIES[policy],
        "runtime": ssp.Virtual(3, delays.Exponential()),
        "num_clocks": 8,
        **MODES[mode],
    }
    stayed = ssp.train(**spec)
    moved = moving()
    again = ssp.train(**spec)
    assert len(moved) >= 2 * 8  # two of three, where the third is cancelled
    assert max(replica.cursor for replica in moved) >= 7
    ahead = "overlap" in MODES[mode] and policy != "cancels"
    assert any(replica.ran for replica in moved) == ahead
    assert bits(again.params) == bits(stayed.params)
    assert bits(again.states.workers) == bits(stayed.states.workers)
    assert bits(again.residuals) == bits(stayed.residuals)
    assert again.history == stayed.history
    assert list(again.tape) == list(stayed.tape)


@pytest.mark.slow
def test_on_devices_too(moving):
    spec = {
        "step": STEPS["noisy"],
        "params": PARAMS,
        "data": batches,
        "policy": ssp.BSP(),
        "runtime": ssp.Devices(num_workers=3),
        "num_clocks": 8,
        **MODES["mix"],
    }
    stayed = ssp.train(**spec)
    moved = moving()
    again = ssp.train(**spec)
    assert any(replica.ran for replica in moved)
    assert bits(again.params) == bits(stayed.params)
