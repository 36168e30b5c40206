"""What `evaluate` is given, where, what it may give, and which versions it passes over."""

import functools
import math
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.checkpoint.metrics import MetricsWriter, read_metrics
from jax_ssp.layout import Layout
from jax_ssp.placement import separate_memory
from jax_ssp.runtimes.evaluation import Evaluator, evaluation_device
from jax_ssp.runtimes.states import States
from jax_ssp.server.local_store import LocalStore

CPU = jax.devices()
RUNTIMES = {"virtual": ssp.Virtual(num_workers=2), "devices": ssp.Devices(num_workers=2)}


def loss_fn(params, batch, key):
    return jnp.mean((params["w"] - batch) ** 2), {}


def run(runtime=RUNTIMES["virtual"], size=3, **spec):
    usual = {
        "params": {"w": jnp.zeros(size)},
        "data": lambda worker: iter([np.float32(1)] * 40),
        "policy": ssp.BSP(),
        "num_clocks": 6,
    }
    step = spec.pop("step", None) or ssp.make_step(loss_fn, optax.sgd(0.1))
    return ssp.train(step, runtime=runtime, **{**usual, **spec})


@functools.partial(jax.jit, donate_argnums=0)
def taken_over(params):
    return jax.tree.map(lambda leaf: leaf * 1.5, params)


@pytest.mark.parametrize("size", [3, 90_000])
@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.every(4)
def test_evaluate_may_take_its_parameters_over(name, size):
    given = []

    def evaluate(params):
        given.append(params["w"])
        new = taken_over(params)
        params.clear()
        return {"w": jnp.mean(new["w"])}

    result = run(RUNTIMES[name], size, evaluate=evaluate, eval_every=1)
    assert all(leaf.is_deleted() for leaf in given)
    plain = run(RUNTIMES[name], size)
    np.testing.assert_array_equal(result.params["w"], plain.params["w"])
    assert result.metrics["w"] == pytest.approx(1.5 * float(result.params["w"][0]), rel=1e-5)


# What metrics are: the same of a step and of `evaluate`.

NO_SCALARS = [
    ("confusion", np.eye(3), ValueError, r"must be a scalar, got shape \(3, 3\); reduce it"),
    ("per_class", jnp.arange(3.0), ValueError, r"must be a scalar, got shape \(3,\)"),
    ("single", np.array([0.5]), ValueError, r"must be a scalar, got shape \(1,\)"),
    ("note", "fine", TypeError, r"must be a scalar, got a str"),
    ("number", "0.5", TypeError, r"must be a scalar, got a str"),
    ("missing", None, TypeError, r"must be a scalar, got a NoneType"),
    ("nested", {"a": 1.0}, TypeError, r"must be a scalar, got a dict; give each number in it a na"),
    ("several", [1.0, 2.0], TypeError, r"must be a scalar, got a list"),
    ("complex", jnp.complex64(1j), TypeError, r"must be a real number, got complex64"),
    ("key", jax.random.key(0), TypeError, r"must be a real number, got key"),
    ("words", np.array("a"), TypeError, r"must be a real number, got <U1"),
    ("object", np.array(None), TypeError, r"must be a real number, got object"),
    ("day", np.datetime64("2026-01-01"), TypeError, r"must be a real number, got datetime64"),
    ("large", 10**400, ValueError, r"must be a number that a float can hold"),
    (0, 1.0, TypeError, r"must have a string as its name"),
    (("a", 1), 1.0, TypeError, r"must have a string as its name"),
]  # fmt: skip


def never(worker):
    raise AssertionError("a clock has run")
    yield


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.parametrize(("name", "value", "kind", "message"), NO_SCALARS)
@pytest.mark.every(9)
def test_what_is_no_scalar_is_named_before_the_first_clock(name, value, kind, message, runtime):
    seen = []
    observer = ssp.Observer()
    observer.on_start = seen.append
    metrics = {"good": 1.0, name: value}
    with pytest.raises(kind, match=rf"`evaluate`'s metric {_quoted(name)} {message}"):
        run(runtime, evaluate=lambda params: metrics, observers=[observer])
    assert not seen
    if isinstance(value, (str, np.ndarray)) and np.asarray(value).dtype.kind in "UO":
        return  # as any output of a traced function
    for step in (
        ssp.make_step(lambda params, batch, key: (loss_fn(params, batch, key)[0], metrics), SGD),
        Handmade(metrics),
    ):
        with pytest.raises(kind, match=rf"the step's metric {_quoted(name)} {message}"):
            run(runtime, step=step, observers=[observer])
    assert not seen


SGD = optax.sgd(0.1)


class Handmade:
    def __init__(self, metrics):
        self.metrics = metrics

    def init(self, params):
        return ()

    def __call__(self, params, worker_state, batch, key):
        return params, worker_state, self.metrics


def _quoted(name):
    return repr(name).replace("(", r"\(").replace(")", r"\)")


@pytest.mark.parametrize(
    "value", [1, 0.5, True, np.float32(0.5), np.bool_(True), np.array(0.5), jnp.int32(3), 10**12]
)
@pytest.mark.every(11)
def test_any_real_number_is_a_metric(value):
    result = run(evaluate=lambda params: {"m": value})
    assert result.metrics == {"m": float(value)}
    if type(value) is not int or value < 2**31:
        step = ssp.make_step(lambda p, b, k: (loss_fn(p, b, k)[0], {"m": value}), SGD)
        assert run(step=step).history[0]["metrics"]["m"] == float(value)


COLUMNS = ("loss", "worker", "clock", "updates", "version", "time", "metrics", "kind", "nonfinite")


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.every(2)
def test_a_metric_may_have_any_name_also_that_of_a_column(runtime, tmp_path):
    metrics = {name: float(number) for number, name in enumerate(COLUMNS)}
    seen = []
    observer, writer = ssp.Observer(), MetricsWriter(tmp_path)
    observer.on_clock = observer.on_eval = seen.append
    result = run(
        runtime,
        step=Handmade({**metrics, "kind": jnp.float32(jnp.inf)}),
        evaluate=lambda params: metrics,
        target="version >= 5",  # the metric is 4, the column comes to 6
        observers=[observer, writer],
    )
    assert result.metrics == metrics
    assert result.status == "done"
    assert all(row["metrics"] == metrics for row in result.evaluations)
    assert all(row["metrics"] == {**metrics, "kind": math.inf} for row in result.history)
    assert [row["updates"] for row in result.history] == sorted([*range(2, 14, 2)] * 2)
    rows = read_metrics(tmp_path)
    assert [row.pop("kind") for row in rows] == [
        "clock" if "lag" in row else "eval" for row in seen
    ]
    assert rows == seen


# Where.


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.parametrize(
    ("where", "device"), [(None, CPU[0]), ("host", CPU[0]), ("cpu:3", CPU[3]), (CPU[2], CPU[2])]
)
@pytest.mark.every(11)
def test_parameters_come_to_where_evaluation_is_to_be(where, device, runtime):
    seen = set()

    def evaluate(params):
        seen.update(params["w"].devices())
        return {"w": jnp.mean(params["w"])}

    result = run(runtime, evaluate=evaluate, eval_every=2, evaluate_on=where)
    assert seen == {device}
    assert result.params["w"].devices() == {CPU[0]}


@pytest.mark.parametrize(
    ("workers", "server", "expected"),
    [
        ([0, 1], 3, 2),  # one without a worker
        ([0, 1], 2, 3),  # and not the server's
        ([0, 1, 2], 3, 0),  # there is none
        ([2, 0, 1, 3], 3, 2),
    ],
)
def test_by_default_no_worker_is_slowed_down_where_a_device_is_free(workers, server, expected):
    busy, home = [CPU[number] for number in workers], [CPU[server]]
    for aside, device in ((True, expected), (False, workers[0])):
        with separate_memory():
            assert evaluation_device(None, busy, home, aside=aside) is CPU[device]
        # Devices on the host are the same cores, so none is freer.
        assert evaluation_device(None, busy, home, aside=aside) is CPU[workers[0]]


@pytest.mark.parametrize(
    ("where", "kind", "message"),
    [
        ("devices", ValueError, r'`evaluate_on` must be "host" \(the CPU\), or one device'),
        ("gpu", ValueError, r"`evaluate_on` must be"),
        (3, TypeError, r"`evaluate_on` must be .* got 3"),
        ("cpu:77", ValueError, r"`evaluate_on` names cpu device 77, but there are 4 cpu devices"),
    ],
)  # fmt: skip
def test_a_place_that_is_none_is_told(where, kind, message):
    with pytest.raises(kind, match=message):
        run(evaluate=lambda params: {"m": 1.0}, evaluate_on=where)
    with pytest.raises(ValueError, match=r"`evaluate_on` needs `evaluate`"):
        run(evaluate_on="host")


# Which versions.


def test_versions_passed_over_are_counted_and_said():
    gate, began = threading.Event(), threading.Event()

    def evaluate(params):
        if threading.current_thread() is not threading.main_thread():
            began.set()
            assert gate.wait(30)
        return {"m": 1.0}

    evaluator = Evaluator(evaluate, 1, CPU[0], LocalStore(ssp.Server({"w": jnp.zeros(2)})))
    evaluator.go_aside(lambda future: None)
    for version in range(1, 6):
        about = {"version": version, "updates": version, "time": 0.0}
        assert evaluator.submit(about, {"w": jnp.zeros(2)}) is None
        assert began.wait(30)  # the first is evaluated by now, and the others wait
    gate.set()
    rows = evaluator.drain()
    evaluator.close()
    assert [(row["version"], row["passed_over"]) for row in rows] == [(1, 0), (5, 3)]


def test_the_summary_says_how_many_were_passed_over():
    gate = threading.Event()

    class Opens(ssp.Observer):
        def on_clock(self, row):
            if row["clock"] == 5:
                gate.set()

    def evaluate(params):
        if threading.current_thread() is not threading.main_thread():
            assert gate.wait(30)
        return {"m": 1.0}

    result = run(RUNTIMES["devices"], evaluate=evaluate, eval_every=1, observers=[Opens()])
    count = sum(row["passed_over"] for row in result.evaluations)
    assert count + len(result.evaluations) == 7  # the first version, and six more
    assert count > 0
    assert f"{count} versions that were due passed over by evaluation" in result.summary()
    assert "passed over" not in run(evaluate=evaluate, eval_every=1).summary()


# What the optimizers have come to.


def average_of_params(decay=0.5):
    def update(updates, state, params=None, **_):
        new = optax.apply_updates(params, updates)
        return updates, jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state, new)

    return optax.GradientTransformationExtraArgs(lambda params: params, update)


@pytest.mark.parametrize("placement", [None, "devices"])
@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.every(7)
def test_the_result_has_the_states_of_all_optimizers(name, placement):
    result = run(
        RUNTIMES[name],
        step=ssp.make_step(loss_fn, optax.sgd(0.1, momentum=0.5)),
        placement=placement,
        server_tx=average_of_params(),
        delta_tx=optax.trace(0.0),
    )
    mine, expected, momentum = 0.0, 0.0, 0.0
    for _ in range(6):
        momentum = 0.5 * momentum + 2 / 3 * (mine - 1)
        mine -= 0.1 * momentum
        expected = 0.5 * expected + 0.5 * mine
    assert len(result.states.workers) == 2
    for state in result.states.workers:
        np.testing.assert_allclose(state[0].trace["w"], np.full(3, momentum), rtol=1e-5)
    server, deltas = result.states.server, result.states.deltas
    if placement == "devices" and name == "devices":  # cut in two
        server = {"w": np.concatenate([each["w"] for each in server])}
        deltas = deltas[0]
    np.testing.assert_allclose(server["w"], np.full(3, expected), rtol=1e-5)
    assert isinstance(deltas, optax.TraceState)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_run_that_fails_has_states_too(name):
    def batches(worker):
        yield from [np.float32(1)] * 3
        raise OSError("the disk is gone")

    step = ssp.make_step(loss_fn, optax.sgd(0.1, momentum=0.5))
    with pytest.raises(OSError, match="the disk is gone") as failed:
        run(RUNTIMES[name], step=step, data=batches)
    states = failed.value.result.states
    assert len(states.workers) == 2
    assert all(np.isfinite(state[0].trace["w"]).all() for state in states.workers)


def test_a_state_that_is_gone_is_none():
    kept, gone = jnp.ones(2), jnp.ones(2)
    gone.delete()
    states = States.of([(kept,), (kept, gone)], Layout.of({}), (gone,), kept)
    assert states == ([(kept,), None], None, kept)


def test_where_nothing_is_computed_there_are_no_states():
    result = ssp.train(runtime=ssp.Virtual(num_workers=2, compute=False), num_clocks=2)
    assert result.states is None


def test_states_beside_statistics_are_the_transforms_own():
    server = ssp.Server(
        {"w": jnp.zeros(2), "mean": jnp.zeros(2)},
        optax.trace(0.5),
        averaged={"w": False, "mean": True},
    )
    server.merge([{"w": jnp.ones(2), "mean": jnp.ones(2)}])
    state, deltas = server.states
    assert isinstance(state, optax.TraceState)
    assert state.trace["w"].tolist() == [1, 1]
    assert deltas == ()
