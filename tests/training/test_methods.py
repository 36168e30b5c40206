"""The DiLoCo family as fields of a run: its methods at their ends, and published numbers."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.training.methods import FAMILY

PARAMS = {"w": jnp.array([1.0, -2.0], jnp.float32)}
RATE, BATCHES = 0.125, 24


def loss_fn(params, batch, key):
    return jnp.mean((batch @ params["w"] - 1.0) ** 2), {}


STEP = ssp.make_step(loss_fn, optax.sgd(RATE))


def batch(worker, number):
    return np.random.default_rng((worker, number)).normal(size=(4, 2)).astype(np.float32)


def train(fields, workers=2, step=STEP, **more):
    spec = {
        "params": PARAMS,
        "data": lambda worker: iter([batch(worker, number) for number in range(BATCHES)]),
        "runtime": ssp.Virtual(workers),
        "num_clocks": 8,
    }
    return ssp.train(step, **{**spec, **fields, **more})


def by_hand(batches, params=PARAMS["w"]):
    """Plain SGD, in NumPy."""
    w = np.asarray(params, np.float64)
    for each in batches:
        w = w - RATE * 2 * np.mean((each @ w - 1.0)[:, None] * each, axis=0)
    return w


def test_diloco_at_one_step_and_a_server_that_adds_is_synchronous_training():
    result = train(ssp.methods.diloco(h=1, learning_rate=1.0, momentum=0.0))
    both = [np.concatenate([batch(0, number), batch(1, number)]) for number in range(8)]
    np.testing.assert_allclose(result.params["w"], by_hand(both), rtol=1e-5)
    again = train({"policy": ssp.BSP()})
    np.testing.assert_allclose(result.params["w"], again.params["w"], rtol=1e-6)


def test_diloco_of_one_worker_and_a_server_that_adds_is_plain_training():
    result = train(ssp.methods.diloco(h=3, learning_rate=1.0, momentum=0.0), workers=1)
    np.testing.assert_allclose(
        result.params["w"], by_hand([batch(0, number) for number in range(24)]), rtol=1e-5
    )


def test_local_sgd_is_diloco_whose_server_adds():
    local = train(ssp.methods.local_sgd(h=3))
    adding = train(ssp.methods.diloco(h=3, learning_rate=1.0, momentum=0.0))
    np.testing.assert_array_equal(local.params["w"], adding.params["w"])


def test_post_local_sgd_is_local_sgd_after_a_while():
    rows = train(ssp.methods.post_local_sgd(h=2, switch=3)).schedule
    assert [int(row["steps"]) for row in rows if row["worker"] == 0] == [1] * 3 + [2] * 5


def test_outer_nesterov_gives_the_published_numbers():
    tx = optax.sgd(0.1, momentum=0.9, nesterov=True)
    server = ssp.Server({"w": jnp.zeros(2)}, ssp.outer(tx), weight="sum")
    for gradient, expected in (
        ((1.0, 2.0), (-0.19, -0.38)),
        ((0.5, -1.0), (-0.366, -0.352)),
        ((2.0, 0.0), (-0.8594, -0.4168)),
    ):
        server.merge([{"w": -jnp.array(gradient)}])
        np.testing.assert_allclose(server.params["w"], expected, rtol=1e-6)


def test_diloco_is_the_published_optimizer_over_the_mean_of_the_workers():
    result = train(ssp.methods.diloco(h=3, learning_rate=0.1, momentum=0.9), num_clocks=3)
    w, momentum = np.asarray(PARAMS["w"], np.float64), np.zeros(2)
    for clock in range(3):
        taken = range(3 * clock, 3 * clock + 3)
        ends = [by_hand([batch(worker, n) for n in taken], w) for worker in (0, 1)]
        gradient = w - np.mean(ends, axis=0)
        momentum = 0.9 * momentum + gradient
        w = w - 0.1 * (gradient + 0.9 * momentum)
    np.testing.assert_allclose(result.params["w"], w, rtol=1e-5)


def test_asynchronous_local_sgd_is_delayed_nesterov_delta_by_delta():
    fields = ssp.methods.async_local_sgd(h=2, workers=2, grace=0.25)
    run = train(fields, runtime=ssp.Virtual(2, ssp.delays.PerWorker((1.0, 1.2))), num_clocks=3)
    assert {len(c.deltas) for _, _, all in run.tape for c in all if hasattr(c, "deltas")} == {1}
    assert set(run.schedule["weight"]) == {1.0}
    assert set(run.schedule["steps"]) == {2}
    assert run.schedule["staleness"].max() == 1


def test_asynchronous_local_sgd_for_another_number_of_workers_is_said():
    says = "`delayed_nesterov(buffer=3)` averages 3 deltas"
    fields = ssp.methods.async_local_sgd(h=1, workers=3)
    result = train(fields, num_clocks=1)
    assert any(each.startswith(says) and "there are 2 workers" in each for each in result.remarks)
    barrier = {**fields, "policy": ssp.BSP()}  # whose merges are of all deltas
    for quiet in (train(fields, workers=3, num_clocks=1), train(barrier, num_clocks=1)):
        assert not any("delayed_nesterov" in each for each in quiet.remarks)


def test_decoupled_runs_ahead_for_as_long_as_its_policy_counts_on():
    fields = ssp.methods.decoupled_diloco(h=3, quorum=2, tau=2)
    assert fields["overlap"] == fields["policy"].tau == 2
    assert train(fields).schedule["weight"].tolist() == [0.5] * 16


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.every(7)
def test_a_method_is_for_train_as_for_an_experiment_and_replays(name):
    fewer = {"fragments": 2} if name == "streaming_diloco" else {}  # there are two numbers
    fields = FAMILY[name](h=2, **fewer)
    result = train(fields)
    assert result.status == "done"
    again = train(fields, runtime=ssp.Replay(result.tape))
    np.testing.assert_array_equal(again.params["w"], result.params["w"])
    quiet = ssp.Virtual(2, compute=False)
    assert ssp.Experiment(runtime=quiet, num_clocks=8, **fields).run().updates == result.updates
    assert getattr(ssp.methods, name) is FAMILY[name]
    assert "arXiv:" in FAMILY[name].__doc__
    assert FAMILY[name]()


# Streaming DiLoCo.


def pushed(h, fragments):
    """The steps after which each fragment is pushed, of a worker in whose run all are twice."""
    fields = ssp.methods.streaming_diloco(h, fragments)
    run = ssp.train(
        runtime=ssp.Virtual(1, compute=False),
        num_clocks=2 * fields["fragments"].count,
        **{**fields, "server_tx": None},
    )
    steps = np.cumsum(run.schedule["steps"])
    return [steps[fragment :: fields["fragments"].count].tolist() for fragment in range(fragments)]


def test_fragments_are_pushed_when_it_is_published_that_they_are():
    """H 36, P 3: one every 12 steps, the same one every 36; H 37, P 37: every step, every 37."""
    assert pushed(36, 3) == [[12, 48], [24, 60], [36, 72]]
    assert pushed(37, 37) == [[each, each + 37] for each in range(1, 38)]
    assert pushed(8, 1) == [[8, 16]]


def test_streaming_with_one_fragment_that_is_waited_for_is_diloco():
    fields = ssp.methods.streaming_diloco(h=3, fragments=1, overlap=0, alpha=0.0)
    whole = train(ssp.methods.diloco(h=3))
    np.testing.assert_array_equal(train(fields).params["w"], whole.params["w"])
    kept = train({**fields, "adopt": ssp.Mix(0.5)})
    assert not np.array_equal(kept.params["w"], whole.params["w"])


def test_streaming_has_fragments_as_they_are_given():
    fragments = ssp.Fragments(2, by="strided", layers="blocks")
    fields = ssp.methods.streaming_diloco(10, fragments, overlap=5)
    assert fields["fragments"] is fragments
    assert (fields["local_steps"], fields["overlap"]) == (5, 5)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ({"h": 37, "fragments": 3}, ValueError, r"make `h` a multiple of them, .* 36 or 39\."),
        ({"h": 2, "fragments": 3}, ValueError, r"diloco\(h=2, fragments=3\)`: .* such as 3\."),
        ({"h": 0}, ValueError, r"`streaming_diloco\(h=...\)` must be at least 1, got 0"),
        ({"h": 4.5}, TypeError, r"`streaming_diloco\(h=...\)` must be an integer, got 4\.5"),
        ({"fragments": 0}, ValueError, r"`streaming_diloco\(fragments=...\)` must be at least 1"),
        ({"fragments": "4"}, TypeError, r"`streaming_diloco\(fragments=...\)` must be None, a num"),
        (
            {"h": 8, "overlap": 3},
            ValueError,
            r"`streaming_diloco\(overlap=...\)` must be at most 2",
        ),
        ({"alpha": 1.5}, ValueError, r"`Mix\(alpha=...\)` must be"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(words, error, message):
    with pytest.raises(error, match=message):
        ssp.methods.streaming_diloco(**words)
