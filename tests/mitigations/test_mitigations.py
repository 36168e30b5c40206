"""Every mitigation is a well-behaved optax transform. The contract, over a table of all of them."""

import inspect
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import mitigations
from jax_ssp.mitigations import ALL_MITIGATIONS
from jax_ssp.testing.mitigations import MITIGATION_CHECKS, is_untouched_when_fresh
from jax_ssp.trees import squared_norm
from tests.helpers import deltas
from tests.helpers.deltas import assert_close

# The defaults of all, and what else takes another way through the code.
TRANSFORMS = {
    **ALL_MITIGATIONS,
    "clip_outliers, reject": lambda: mitigations.clip_outliers(1.0, 2, action="reject"),
    "delay_compensation, adaptive": lambda: mitigations.delay_compensation(2.0, 0.1, adaptive=True),
    "delayed_nesterov, active": lambda: mitigations.delayed_nesterov(activation=0.2, buffer=3),
    "drop_stale, inner": lambda: mitigations.drop_stale(5, optax.trace(0.9)),
    "outer, adam": lambda: mitigations.outer(optax.chain(optax.trace(0.5), optax.scale(-0.1))),
    "scale_by_gap, whole": lambda: mitigations.scale_by_gap(elementwise=False, weight="sum"),
    "scale_by_staleness, polynomial": lambda: mitigations.scale_by_staleness(0.5, "polynomial"),
    "scale_by_staleness, exponential": lambda: mitigations.scale_by_staleness(0.1, "exponential"),
    "scale_by_staleness, threshold": lambda: mitigations.scale_by_staleness(0.5, "threshold", 3),
    "skip_nonfinite, inner": lambda: mitigations.skip_nonfinite(mitigations.delayed_nesterov()),
}
NEED_BASE = {"delay_compensation", "elastic_average", "scale_by_gap"}
# In the quick loop the defaults, in CI all.
SLOW = {name: () if name in ALL_MITIGATIONS else pytest.mark.slow for name in TRANSFORMS}
everyone = pytest.mark.parametrize(
    "make", [pytest.param(make, id=name, marks=SLOW[name]) for name, make in TRANSFORMS.items()]
)
everyone_by_name = pytest.mark.parametrize(
    ("name", "make"),
    [pytest.param(name, make, id=name, marks=SLOW[name]) for name, make in TRANSFORMS.items()],
)


def test_the_table_is_whole():
    files = Path(mitigations.__file__).parent.glob("[a-z]*.py")
    # One goes anywhere, one around a worker's optimizer, and one is what `outer` measures.
    others = {"as_given", "loss_scale", "correlation"}
    assert len(ALL_MITIGATIONS) == len({path.stem for path in files} - others)
    assert list(ALL_MITIGATIONS) == sorted(ALL_MITIGATIONS)
    for make in TRANSFORMS.values():
        assert isinstance(make(), optax.GradientTransformationExtraArgs)


@everyone
@pytest.mark.parametrize("check", MITIGATION_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.every(23)
def test_it_keeps_the_contract(make, check):
    """What `ssp.testing.check_mitigation` asks of any transform."""
    check(make(), 0)


@pytest.mark.slow
def test_making_one_leaves_the_devices_alone():
    program = """
import jax, jax_ssp
for make in jax_ssp.mitigations.ALL_MITIGATIONS.values():
    make()
jax.config.update("jax_num_cpu_devices", 3)  # an error once they are there
assert jax.device_count("cpu") == 3
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in TRANSFORMS
        if name.split(",")[0] not in ("outer", "delayed_nesterov", "elastic_average")
        and "inner" not in name
    ],
)
@pytest.mark.every(5)
def test_a_fresh_delta_passes_untouched(name):
    """What staleness did not spoil needs no correction. (An optimizer is another thing.)"""
    is_untouched_when_fresh(TRANSFORMS[name](), 0)


@everyone_by_name
def test_who_needs_the_base_says_so(name, make):
    """The server tries without, and looks for this error."""
    transform, stacked = make(), deltas.merges(deltas.single(), length=1)
    (merge,) = deltas.each(stacked)
    about = deltas.extras(merge["staleness"], merge["base"])
    del about["stale_params"]

    def without_base(transform):
        state = jax.eval_shape(transform.init, merge["params"])
        return jax.eval_shape(
            lambda state: transform.update(merge["delta"], state, merge["params"], **about), state
        )

    around = (
        lambda transform: transform,
        lambda transform: optax.chain(optax.clip(1.0), transform),
        lambda transform: mitigations.drop_stale(3, transform),
        lambda transform: mitigations.skip_nonfinite(optax.chain(transform, optax.trace(0.9))),
    )
    needed = name.split(",")[0] in NEED_BASE
    for wrap in around:
        if needed:
            with pytest.raises(TypeError, match="required keyword-only argument: 'stale_params'"):
                without_base(wrap(transform))
        else:
            without_base(wrap(transform))
    if needed:
        parameter = inspect.signature(transform.update).parameters["stale_params"]
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is parameter.empty


@pytest.mark.parametrize("name", sorted(NEED_BASE))
def test_without_parameters_it_says_what_to_do(name):
    transform = ALL_MITIGATIONS[name]()
    tree = deltas.single()
    with pytest.raises(ValueError, match=f"`{name}` needs `params`: call `update"):
        transform.update(tree, transform.init(tree), **deltas.extras(jnp.int32(1), tree))


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n.split(",")[0] not in NEED_BASE])
@pytest.mark.every(5)
def test_a_server_takes_it(name):
    """All but those that need a base, which a merge of bare deltas does not know."""
    transform = TRANSFORMS[name]()
    delta = {"w": jnp.array([4.0, -8.0])}
    server = ssp.Server({"w": jnp.zeros(2)}, transform, weight="sum")
    server.merge([delta], staleness=3)
    about = deltas.extras(jnp.int32(3), delta)
    expected, _ = transform.update(delta, transform.init(delta), server.params, **about)
    assert_close(server.params, expected)


@everyone_by_name
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
@pytest.mark.every(5)
def test_a_delta_that_is_not_finite_spoils_no_state_for_good(name, make, bad):
    """What follows is as it would be without it; after one whose square alone is not, finite."""
    if "outer" in name or name == "drop_stale, inner":
        return  # the state is that of a transform of optax; wrap it in `skip_nonfinite`
    enters = np.isfinite(bad) and (name == "skip_nonfinite, inner" or "nesterov" in name)
    transform, stacked = make(), deltas.merges(deltas.single())
    state = clean = transform.init(deltas.single())
    for number, merge in enumerate(deltas.each(stacked)):
        if number == 5:
            spoilt = {**merge, "delta": {**merge["delta"], "b": jnp.float32(bad)}}
            _, state = deltas.update(transform, state, spoilt)
        applied, state = deltas.update(transform, state, merge)
        expected, clean = deltas.update(transform, clean, merge)
        for leaf in jax.tree.leaves(applied):
            assert jnp.isfinite(leaf).all()
        if not enters:
            assert_close(applied["b"], expected["b"])


def test_norms_of_half_precision_are_summed_in_float32():
    """In bfloat16 a sum of ones stops at 256."""
    many = {"h": jnp.ones(1 << 16, jnp.bfloat16)}
    assert float(squared_norm(many)) == 1 << 16
    transform = mitigations.clip_outliers(factor=1.0, window=1)
    _, state = transform.update(many, transform.init(many))
    assert state.norms.tolist() == [256.0]
    # Half of a delta of one number keeps its last bit until it is rounded.
    odd = {"h": jnp.array([1.0078125], jnp.bfloat16)}
    third = mitigations.scale_by_staleness()
    applied, _ = third.update(odd, (), staleness=jnp.int32(3))
    assert applied["h"].tolist() == [float(jnp.bfloat16(1.0078125 / 3))]


@pytest.mark.parametrize("shape", ["inverse", "polynomial", "exponential", "threshold"])
def test_the_largest_staleness_scales_as_the_formula_says(shape):
    transform = mitigations.scale_by_staleness(0.5, shape)
    delta = jnp.ones(1)
    applied, _ = transform.update(delta, (), staleness=jnp.int32(2**31 - 1))
    age = 2.0**31 - 1
    expected = {
        "inverse": age**-0.5,
        "polynomial": (1 + age) ** -0.5,
        "exponential": 0.0,
        "threshold": 1 / (0.5 * (age - 4) + 1),
    }
    np.testing.assert_allclose(applied, [expected[shape]], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (mitigations.drop_stale, "max_staleness"),
        (mitigations.clip_outliers, "window"),
        (mitigations.delayed_nesterov, "buffer"),
        (mitigations.scale_by_staleness, "threshold"),
    ],
)
def test_a_count_that_no_int32_holds_is_refused(make, field):
    message = rf"`{make.__name__}\({field}=...\)` must be at most \d+, got 2147483648"
    with pytest.raises(ValueError, match=message):
        make(**{field: 2**31})
