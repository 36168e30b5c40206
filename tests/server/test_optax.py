"""Any transform of optax works on the server: what it is told and gives, and when it compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ssp.mitigations import outer
from jax_ssp.server.server import Server
from tests.helpers.servers import EXTRAS, reader, tree


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
