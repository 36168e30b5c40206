"""The server merges what NumPy would, and numbers its versions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ssp.server.server import Server
from jax_ssp.server.transforms import arrival
from jax_ssp.server.versions import MOST_KNOWN
from tests.helpers.servers import assert_close, on_device, reader, tree

# Merging.


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("num_workers", [None, 4])
@pytest.mark.parametrize("weight", ["mean", "sum", 0.25, -2])
@pytest.mark.every(2)
def test_a_merge_adds_the_weighted_sum_of_the_deltas(weight, num_workers, count):
    params, deltas = tree(0), [tree(1 + number) for number in range(count)]
    server = Server(params, weight=weight)
    server.merge([on_device(delta) for delta in deltas], num_workers=num_workers)
    factor = {"mean": 1 / (num_workers or count), "sum": 1.0}.get(weight, weight)
    expected = {name: params[name] + factor * sum(d[name] for d in deltas) for name in params}
    assert_close(server.params, expected)


def test_deltas_are_summed_in_the_order_given():
    big, one = {"w": jnp.array([1e8])}, {"w": jnp.array([1.0])}
    minus = {"w": jnp.array([-1e8])}
    for deltas, total in (([big, one, minus], 0.0), ([big, minus, one], 1.0)):
        server = Server({"w": jnp.zeros(1)}, weight="sum")
        server.merge(deltas)
        assert server.params["w"].tolist() == [total]


def counting_base() -> optax.GradientTransformationExtraArgs:
    """Scales by 1 + how many came before, and adds the distance to the base, by name."""

    def update(updates, state, params, *, stale_params, staleness, **extra_args):
        late = jnp.float32(staleness)
        scaled = jax.tree.map(
            lambda u, p, s: u * (1 + state) + late * (p - s), updates, params, stale_params
        )
        return scaled, state + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.float32(0), update)


@pytest.mark.parametrize("count", [32, 33, 64, 100])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.every(11)
def test_many_deltas_are_summed_in_parts_and_nobody_can_tell(count, devices):
    params, deltas = tree(0), [tree(1 + number) for number in range(count)]
    bases = [tree(500 + number) for number in range(count)]
    staleness = [number * 7 % 41 for number in range(count)]
    server = Server(
        params,
        counting_base(),
        delta_tx=counting_base(),
        weight="mean",
        device=jax.devices()[:devices],
    )
    for _ in range(2):  # the second finds the states that the first left
        server.merge(deltas, staleness=staleness, stale_params=bases, num_workers=count)
    expected = {name: value.astype(np.float64) for name, value in params.items()}
    for merges in range(2):
        stalest = staleness.index(max(staleness))
        for name, old in expected.items():
            sums = sum(
                delta[name] * (1 + merges * count + number) + staleness[number] * (old - base[name])
                for number, (delta, base) in enumerate(zip(deltas, bases, strict=True))
            )
            gap = max(staleness) * (old - bases[stalest][name])
            expected[name] = old + sums / count * (1 + merges) + gap
    for name, value in expected.items():
        np.testing.assert_allclose(server.params[name], value, rtol=1e-4)


def test_few_programs_serve_merges_of_any_size(compilations):
    deltas = [on_device(tree(number)) for number in range(300)]
    server = Server(tree(0))
    server.merge(deltas[:75])  # all that there is: the first part, another, the last
    compilations()
    for count in (75, 107, 139, 299):
        server.merge(deltas[:count], num_workers=7)
    assert compilations() == 0


def test_one_program_serves_arrays_of_numpy_and_of_jax(compilations):
    """Deltas come as either, depending on where their workers are, in whatever order."""
    server = Server(tree(0))
    plain, told = server.programs(lambda params, delta: delta), [arrival(num_workers=2)] * 2
    there = jax.device_put(server.layout.packed(tree(1)), jax.devices()[0])
    here = jax.tree.map(np.asarray, there)
    server.versions.apply(plain, [[there], [there]], told)
    compilations()
    for deltas in ([here, there], [there, here], [here, here]):
        server.versions.apply(plain, [[delta] for delta in deltas], told)
    assert compilations() == 0


def test_weights_that_never_come_back_take_no_more_memory(compilations):
    server, ones = Server({"w": jnp.zeros(2)}, weight="sum"), {"w": jnp.ones(2)}
    server.merge([ones], weights=[0.5])
    compilations()
    for number in range(1, MOST_KNOWN + 8):
        server.merge([ones], weights=[0.5 + number])
    assert (compilations(), len(server.versions._known)) == (0, MOST_KNOWN)
    assert server.params["w"].tolist() == [(MOST_KNOWN + 8) ** 2 / 2] * 2


def test_versions_count_merges_and_only_the_newest_is_held():
    server = Server(tree(0))
    assert server.version == 0
    assert_close(server.snapshot(0), tree(0))
    assert_close(server.snapshot(), tree(0))
    assert server.merge([tree(1)]) == 1
    assert server.merge([tree(1), tree(2), tree(3)]) == 2
    assert_close(server.snapshot(2), server.params)
    for version in (0, 1, 3):
        with pytest.raises(ValueError, match=rf"version {version} is not held, .* newest, 2\."):
            server.snapshot(version)
    assert server.version == 2


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ({**tree(0), "b": np.ones((1, 2), np.float32)},
         r"the merge's `deltas\[1\]\['b'\]` is float32\[1, 2\], but `params\['b'\]` is float"),
        ({**tree(0), "b": np.float32(1)}, r"`deltas\[1\]\['b'\]` is float32\[\], but"),
        ({**tree(0), "b": np.ones(2, np.int32)}, r"is int32\[2\], .* but any floating-point"),
        ({**tree(0), "b": [1.0, 2.0]}, r"`deltas\[1\]` has no leaf for `params\['b'\]`; it has "
         r"deltas\[1\]\['b'\]\[0\], deltas\[1\]\['b'\]\[1\] instead"),
        ({**tree(0), "c": np.float32(1)}, r"but there is no `params\['c'\]`"),
        (tuple(tree(0).values()), r"no leaf for `params\['b'\]`"),
    ],
    ids=["rank", "scalar", "dtype", "list", "more", "structure"],
)  # fmt: skip
def test_a_delta_that_does_not_fit_is_named_and_makes_no_version(delta, message):
    server = Server(tree(0))
    with pytest.raises(ValueError, match=message):
        server.merge([tree(1), delta])
    assert server.version == 0


def test_a_base_that_does_not_fit_is_named():
    server = Server(tree(0))
    with pytest.raises(ValueError, match=r"`stale_params\[0\]` has no leaf for `params\['b'\]`"):
        server.merge([tree(1)], stale_params=[{"w": tree(0)["w"]}])
    with pytest.raises(TypeError, match=r"`deltas\[0\]\['b'\]` must be an array of numbers, got"):
        server.merge([{**tree(1), "b": "b"}])


@pytest.mark.usefixtures("standard_promotion")
def test_a_delta_may_be_of_another_float_type_and_hold_numbers():
    server = Server({"w": jnp.zeros(2, jnp.bfloat16), "b": 1.0}, weight="sum")
    server.merge([{"w": np.ones(2, np.float32), "b": np.float32(2)}, {"w": jnp.ones(2), "b": 2.0}])
    assert server.params["w"].dtype == jnp.bfloat16
    assert server.params["w"].tolist() == [2.0, 2.0]
    assert server.params["b"] == 5.0


def test_parameters_that_cannot_be_averaged_are_refused():
    with pytest.raises(ValueError, match=r"`params\['a'\]` is int32; .* must be floating point"):
        Server({"a": jnp.zeros(2, jnp.int32)})


def test_numbers_about_a_delta_may_be_numpys():
    server = Server({"told": jnp.zeros(5)}, reader([]))
    delta = {"told": jnp.ones(5)}
    server.merge([delta], staleness=np.int64(3), lag=jnp.int32(2), worker=np.array([1]))
    assert server.params["told"].tolist() == [3.0, 2.0, 1.0, 1.0, 0.0]
    for value in (1.5, [1.5], "3"):
        with pytest.raises(TypeError, match=r"`merge\(lag=...\)(\[0\])?` must be an integer"):
            server.merge([delta], lag=value)
    with pytest.raises(ValueError, match=r"`merge\(num_workers=...\)` must be at least 1, got 0\."):
        server.merge([delta], num_workers=0)
    assert server.version == 1


def test_without_deltas_there_is_no_version():
    server = Server(tree(0))
    with pytest.raises(ValueError, match=r"`merge\(deltas\)` needs at least one delta, got none\."):
        server.merge([])
    assert server.version == 0


@pytest.mark.parametrize("weight", [np.float32(0.5), np.float64(0.5), np.int64(2)])
def test_a_weight_may_be_numpys(weight):
    number = Server(tree(0), weight=weight).weight
    assert type(number) is float
    assert number == weight


BAD_WEIGHTS = ["median", "1", float("nan"), float("inf"), True, np.bool_(True), None, np.ones(2)]


@pytest.mark.parametrize("weight", BAD_WEIGHTS, ids=repr)
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(ValueError, match='`weight` must be "mean", "sum", "merged", "samples"'):
        Server(tree(0), weight=weight)


def test_a_transform_that_is_none_is_refused():
    with pytest.raises(
        TypeError, match=r"`server_tx` must be an optax transform such as .*, got 0\.1"
    ):
        Server(tree(0), 0.1)


def test_it_lives_on_one_device_and_takes_deltas_from_any():
    home, *others = jax.devices()[2], *jax.devices()
    server = Server({"w": jnp.zeros(2)}, weight="sum", device=home)
    for device in others:
        server.merge([{"w": jax.device_put(jnp.ones(2), device)}])
    assert server.params["w"].devices() == {home}
    assert server.params["w"].tolist() == [4.0, 4.0]
    assert Server(tree(0)).device == jax.devices("cpu")[0]


# Dtypes.


def test_bfloat16_keeps_its_dtype_and_is_summed_in_float32():
    one = {"w": jnp.ones(2, jnp.bfloat16)}
    server = Server({"w": jnp.zeros(2, jnp.bfloat16)}, weight="sum")
    # In bfloat16 256 + 1 is 256 again, however often.
    server.merge([{"w": jnp.full(2, 256, jnp.bfloat16)}, *[one] * 8])
    assert server.params["w"].dtype == jnp.bfloat16
    assert server.params["w"].astype(jnp.float32).tolist() == [264.0, 264.0]


def test_each_leaf_keeps_its_own_dtype():
    params = {
        "half": jnp.ones(2, jnp.float16),
        "single": jnp.ones(2),
        "complex": jnp.ones(2, jnp.complex64),
    }
    server = Server(params, weight="mean")
    server.merge([params], num_workers=4)
    assert jax.tree.map(lambda leaf: leaf.dtype, server.params) == jax.tree.map(
        lambda leaf: leaf.dtype, params
    )
    assert all(leaf.tolist() == [1.25, 1.25] for leaf in jax.tree.leaves(server.params))
