"""The server merges what NumPy would, numbers its versions, and touches nobody else's arrays."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ssp.mitigations import outer
from jax_ssp.server.server import Server
from jax_ssp.server.transforms import arrival

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
    there = jax.device_put(tree(1), jax.devices()[0])
    here = jax.tree.map(np.asarray, there)
    server.versions.apply(plain, [[there], [there]], told)
    compilations()
    for deltas in ([here, there], [there, here], [here, here]):
        server.versions.apply(plain, [[delta] for delta in deltas], told)
    assert compilations() == 0


def test_versions_count_merges_and_only_the_newest_is_held():
    server = Server(tree(0))
    assert server.version == 0
    assert server.snapshot(0) is server.snapshot() is server.params
    assert server.merge([tree(1)]) == 1
    assert server.merge([tree(1), tree(2), tree(3)]) == 2
    assert server.snapshot(2) is server.snapshot() is server.params
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


# Nobody else's arrays.


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.every(2)
def test_the_memory_of_a_version_that_nobody_holds_is_used_again(devices):
    server = Server(large(0), weight="sum", device=jax.devices()[:devices])
    expected = large(0)["w"].astype(np.float64)
    held, places, shown = deque(), [], []
    for number in range(1, 40):
        if len(held) == 3:
            held.popleft().release()
        held.append(server.versions.newest.hold())
        shown.append(held[-1].to(jax.devices()[3:])[0]["w"])
        shown = shown[-2:]  # as NumPy arrays on that memory: they keep it from being used again
        assert server.merge([large(number)]) == number
        expected += large(number)["w"]
        places.append(server.versions.newest.pieces[0]["w"].unsafe_buffer_pointer())
    np.testing.assert_allclose(server.params["w"], expected, rtol=1e-4, atol=1e-4)
    assert len(set(places[10:])) <= 3 + 2


def test_what_a_worker_reads_is_not_overwritten():
    server = Server(large(0), device=jax.devices()[0])
    seen = []
    for number in range(12):
        (views,) = server.versions.newest.to(jax.devices()[1:])  # itself held by nobody
        seen.append((views, jax.tree.map(np.array, views)))
        server.merge([large(number)])
    for views, copies in seen:
        jax.tree.map(np.testing.assert_array_equal, views, copies)


def aligned(values) -> np.ndarray:
    """NumPy memory that JAX's CPU backend can use as it is, without a copy."""
    values = np.asarray(values, np.float32)
    raw = np.empty(values.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array = raw[start : start + values.nbytes].view(np.float32)
    array[:] = values
    return array


def large(seed: int) -> dict[str, np.ndarray]:
    """Of a size whose memory is used again."""
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(256, 512)).astype(np.float32), "b": np.ones(2, np.float32)}


@pytest.mark.parametrize("tree", [tree, large])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.every(5)
def test_a_snapshot_somebody_keeps_stays_as_it_is(tree, devices):
    server = Server(tree(0), outer(optax.sgd(0.1, momentum=0.9)), device=jax.devices()[:devices])
    kept, copies = [], []
    for number in range(20):
        if number % 3 == 0:
            kept.append(server.snapshot())
            copies.append(jax.tree.map(np.array, kept[-1]))
        server.merge([tree(number)])
    assert len({leaf["w"].unsafe_buffer_pointer() for leaf in kept}) == 7
    for snapshot, copy in zip(kept, copies, strict=True):
        jax.tree.map(np.testing.assert_array_equal, snapshot, copy)


def test_the_users_arrays_are_neither_taken_over_nor_written_to():
    params, delta = on_device(tree(0)), on_device(tree(1))
    server = Server(params, optax.trace(0.5), weight="sum")
    for _ in range(5):
        server.merge([delta, delta])
    jax.tree.map(np.testing.assert_array_equal, params, tree(0))
    jax.tree.map(np.testing.assert_array_equal, delta, tree(1))


def test_the_user_may_delete_what_the_server_was_given():
    params, delta = on_device(tree(0)), on_device(tree(1))
    server = Server(params, weight="sum")
    jax.tree.map(lambda leaf: leaf.delete(), params)
    server.merge([delta])
    jax.block_until_ready(server.params)
    jax.tree.map(lambda leaf: leaf.delete(), delta)
    assert_close(server.params, {name: tree(0)[name] + tree(1)[name] for name in tree(0)})


def test_the_user_may_overwrite_what_the_server_was_given():
    size = 200_000  # large enough for the merge to be under way still when the delta is overwritten
    params, delta = aligned(np.zeros(size)), aligned(np.ones(size))
    server = Server({"w": params}, weight="sum")
    params[:] = 7.0
    for _ in range(3):
        delta[:] = 1.0
        server.merge([{"w": delta}])
        delta[:] = 9.0
    assert np.unique(np.asarray(server.params["w"])).tolist() == [3.0]


def test_a_transform_that_keeps_the_parameters_is_not_given_the_snapshot_to_destroy():
    keep = optax.GradientTransformation(lambda params: params, lambda u, state, params: (u, params))
    server = Server({"w": jnp.zeros(300)}, keep, weight="sum")
    kept = [server.snapshot()]
    for _ in range(3):
        server.merge([{"w": jnp.ones(300)}])
        kept.append(server.snapshot())
    assert [float(snapshot["w"][0]) for snapshot in kept] == [0.0, 1.0, 2.0, 3.0]


# Transforms.


def test_momentum_is_kept_across_merges():
    server = Server({"w": jnp.zeros(2)}, outer(optax.sgd(0.5, momentum=0.9)))
    w, trace = np.zeros(2), np.zeros(2)
    for number in range(6):
        delta = np.array([number + 1.0, -1.0])
        server.merge([{"w": delta.astype(np.float32)}])
        trace = delta + 0.9 * trace
        w = w + 0.5 * trace
    np.testing.assert_allclose(server.params["w"], w, rtol=1e-6)


NORM = np.hypot(3.0, 4.0)


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (None, [3.0, 4.0]),
        (optax.clip(3.5), [3.0, 3.5]),
        (optax.clip_by_global_norm(2.5), [3.0 * 2.5 / NORM, 4.0 * 2.5 / NORM]),
        (optax.chain(optax.clip(3.5), optax.scale(2.0)), [6.0, 7.0]),
    ],
    ids=["none", "clip", "norm", "chain"],
)
def test_any_optax_transform_works_on_the_weighted_sum(tx, expected):
    server = Server({"w": jnp.zeros(2)}, tx, weight="sum")
    server.merge([{"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([2.0, 3.0])}])
    np.testing.assert_allclose(server.params["w"], expected, rtol=1e-6)


def reader(traces: list) -> optax.GradientTransformationExtraArgs:
    """Puts what it is told in place of the delta, and notes how it was told at each trace."""

    def update(updates, state, params=None, **extras):
        traces.append({name: (extras[name].dtype, extras[name].shape) for name in extras})
        return {"told": jnp.stack([extras[name] for name in EXTRAS]).astype(jnp.float32)}, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def test_a_transform_reads_what_it_is_told_as_int32_scalars():
    traces = []
    server = Server({"told": jnp.zeros(5)}, optax.chain(optax.identity(), reader(traces)))
    traces.clear()  # it was asked what it needs
    delta = {"told": jnp.ones(5)}
    server.merge([delta], staleness=5, lag=2, worker=7, num_workers=9)
    assert server.params["told"].tolist() == [5.0, 2.0, 7.0, 9.0, 0.0]
    server.merge([delta, delta])  # the defaults; num_workers is the number of deltas
    assert server.params["told"].tolist() == [5.0, 2.0, 7.0, 11.0, 1.0]  # a merge is a round
    assert traces == [dict.fromkeys(EXTRAS, (np.dtype(np.int32), ()))] * 2


def test_one_compilation_serves_every_staleness_lag_worker_and_number_of_workers(compilations):
    traces = []
    server = Server({"told": jnp.zeros(5)}, reader(traces))
    traces.clear()
    delta = {"told": jnp.ones(5)}
    compilations()
    server.merge([delta])
    assert (len(traces), compilations()) == (1, 1)
    for number in range(8):
        server.merge([delta], staleness=number, lag=number, worker=number, num_workers=number + 1)
    assert (len(traces), compilations()) == (1, 0)


def test_a_merge_is_compiled_once_for_a_transform_with_a_state_too(compilations):
    server, delta = Server({"w": jnp.zeros(4)}, optax.trace(0.9)), {"w": jnp.ones(4)}
    compilations()
    for _ in range(3):
        server.merge([delta])
    assert compilations() == 1


def test_equal_servers_have_equal_programs_and_others_do_not():
    programs = [
        Server(tree(0), tx).program() for tx in (optax.scale(0.5), optax.scale(0.5), optax.scale(2))
    ]
    assert programs[0] == programs[1] != programs[2]


def test_what_is_averaged_counts_one_share_and_the_transform_does_not_see_it():
    averaged = {"w": False, "mean": True}
    params = {"w": jnp.zeros(2), "mean": jnp.zeros(2)}
    tx = optax.chain(optax.scale(3.0), optax.trace(0.9))
    server = Server(params, tx, weight="sum", averaged=averaged)
    ones = jax.tree.map(jnp.ones_like, params)
    server.merge([ones, ones], num_workers=4)
    assert server.params["w"].tolist() == [6.0, 6.0]
    assert server.params["mean"].tolist() == [0.5, 0.5]
    server.merge([ones], num_workers=4)
    np.testing.assert_allclose(server.params["w"], [6 + 3 + 0.9 * 6] * 2, rtol=1e-6)
    assert server.params["mean"].tolist() == [0.75, 0.75]


def test_a_transform_that_fails_on_these_parameters_is_named():
    def update(updates, state, params=None):
        return [updates][1], state

    with pytest.raises(TypeError, match=r"`server_tx` cannot be called with .*: list index out of"):
        Server({"w": jnp.zeros(2)}, optax.GradientTransformation(lambda params: (), update))


def test_a_transform_that_wants_more_than_there_is_says_so_at_once():
    def update(updates, state, params=None, *, hessian, **extras):
        return updates, state

    greedy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    with pytest.raises(TypeError, match=r"`delta_tx` cannot be called with what .* 'hessian'"):
        Server({"w": jnp.zeros(2)}, delta_tx=greedy)


def shaped(change, extra=()) -> optax.GradientTransformation:
    """Changes the leaves of the updates; `extra` names required arguments."""

    def update(updates, state, params=None, **extras):
        assert all(extras[name] is not None for name in extra)
        return change(updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def each(change):
    return lambda updates: jax.tree.map(change, updates)


@pytest.mark.parametrize("extra", [(), ("stale_params",)], ids=["plain", "base"])
@pytest.mark.parametrize("averaged", [None, {"w": False, "b": True}], ids=["trained", "averaged"])
@pytest.mark.parametrize("name", ["server_tx", "delta_tx"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (each(lambda leaf: leaf[None]), r"`updates\['w'\]` is float32\[1, 3, 2\], but "
         r"`params\['w'\]` is float32\[3, 2\]; they must agree"),
        (each(jnp.sum), r"`updates\['w'\]` is float32\[\], but `params\['w'\]` is float32\[3, 2\]"),
        (each(lambda leaf: leaf > 0), r"`updates\['w'\]` is bool\[3, 2\], but .* floating-point"),
    ],
    ids=["axis", "scalar", "dtype"],
)  # fmt: skip
def test_updates_of_another_shape_are_told_at_once(name, change, message, averaged, extra):
    # What is averaged never comes to the transform, so "b" is as it was.
    message = rf"`{name}`'s {message}" if averaged else rf"`{name}`'s `updates\['[wb]'\]` is"
    with pytest.raises(ValueError, match=message):
        Server(tree(0), averaged=averaged, **{name: shaped(change, extra)})


def test_updates_of_another_structure_are_told_at_once():
    message = r"`server_tx`'s `updates` has no leaf for `params\['b'\]`; it has no other instead"
    with pytest.raises(ValueError, match=message):
        Server(tree(0), shaped(lambda updates: {"w": updates["w"]}))


@pytest.mark.usefixtures("standard_promotion")
def test_updates_of_another_float_type_leave_the_parameters_theirs():
    wider = shaped(each(lambda leaf: leaf.astype(jnp.float32)))
    server = Server({"w": jnp.zeros(2, jnp.bfloat16)}, wider, delta_tx=wider)
    server.merge([{"w": jnp.ones(2, jnp.bfloat16)}])
    assert server.params["w"].dtype == jnp.bfloat16
    assert server.params["w"].tolist() == [1.0, 1.0]


def test_a_transform_may_look_its_base_up_by_name():
    def update(updates, state, params=None, **extras):
        return extras["stale_params"], state

    looking = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    server = Server({"w": jnp.zeros(2)}, delta_tx=looking, weight="sum")
    assert server.wants_base
    with pytest.raises(ValueError, match="one of `stale_params`"):
        server.merge([{"w": jnp.ones(2)}])
    server.merge([{"w": jnp.ones(2)}], stale_params=[{"w": jnp.full(2, 3.0)}])
    assert server.params["w"].tolist() == [3.0, 3.0]


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
