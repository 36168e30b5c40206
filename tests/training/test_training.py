"""`train`: bad input is refused before anything computes, and the numbers in a result are right."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.server.server import Server
from jax_ssp.worker.worker import Worker


def loss_fn(params, batch, key):
    return jnp.mean((params["w"] - batch) ** 2), {"distance": jnp.sum(jnp.abs(params["w"]))}


def ones(worker):
    return itertools.repeat(np.ones(2, np.float32))


STEP = ssp.make_step(loss_fn, optax.sgd(0.25))
SPEC = {
    "step": STEP,
    "params": {"w": np.zeros(2, np.float32)},
    "data": ones,
    "policy": ssp.SSP(1),
    "num_clocks": 2,
}


def virtual(*seconds, **others):
    """A world where worker i takes `seconds[i]` for each clock."""
    return ssp.Virtual(len(seconds), delays.PerWorker(tuple(map(float, seconds))), **others)


# Bad input.


@pytest.fixture
def nothing_computes(monkeypatch):
    """Fails a test in which an array is put on a device, or a worker or a server is made."""

    def no(*_, **__):
        raise AssertionError("a device was touched before the arguments were checked")

    monkeypatch.setattr(jax, "device_put", no)
    monkeypatch.setattr(Worker, "__init__", no)
    monkeypatch.setattr(Server, "__init__", no)


class Misfit:
    """A step whose delta is what it is told to be."""

    def __init__(self, delta):
        self.delta = delta

    def init(self, params):
        return ()

    def __call__(self, params, worker_state, batch, key):
        return self.delta, worker_state, {}


W = r"`params\['w'\]`"
BAD_VALUES = {
    "no end": ({"num_clocks": None}, r"give `num_clocks`, `max_updates`, .* \(or several\)"),
    "no clock": ({"num_clocks": 0}, r"`num_clocks` must be at least 1, got 0\."),
    "no update": ({"max_updates": 0}, r"`max_updates` must be at least 1, got 0\."),
    "no step in a clock": ({"local_steps": 0}, r"`local_steps` must be at least 1, got 0\."),
    "eval_every": (
        {"eval_every": 0, "evaluate": dict},
        r"`eval_every` must be at least 1, got 0\.",
    ),
    "evaluate": ({"eval_every": 1}, "`eval_every` and `target` need `evaluate`, a function"),
    "target alone": ({"target": "loss <= 1"}, "`eval_every` and `target` need `evaluate`"),
    "target": (
        {"target": "loss < 1", "evaluate": dict},
        r'`target` must read like "test_accuracy >= 0.97" or "loss <= 0.1", with a finite '
        r"number, got 'loss < 1'",
    ),
    **{
        f"target {value}": (
            {"target": f"loss >= {value}", "evaluate": dict},
            rf"`target` must read like .* with a finite number, got 'loss >= {value}'",
        )
        for value in ("nan", "inf", "-inf", "1e999", "infinity")
    },
    "target value": (
        {"target": "loss <= low", "evaluate": dict},
        "`target` must read like .* got 'loss <= low'",
    ),
    "weight": (
        {"weight": "median"},
        "`weight` must be .* or a finite number, got 'median'",
    ),
    "infinite weight": ({"weight": float("inf")}, "`weight` must be .* got inf"),
    "step missing": ({"step": None}, r"`train\(step=...\)` is missing; only `Virtual\(compute=F"),
    "params missing": ({"params": None}, r"`train\(params=...\)` is missing"),
    "data missing": ({"data": None}, r"`train\(data=...\)` is missing"),
    "devices": (
        {"runtime": ssp.Devices(num_workers=5)},
        r"`Devices\(num_workers=5\)` needs 5 places, but there are 4 devices",
    ),
    "shard": (
        {"data": lambda worker: iter([] if worker == 2 else [np.float32(1)])},
        r"`data\(worker=2\)` gives no batch at all; its iterator was empty",
    ),
    "integers": (
        {"params": {"w": np.zeros(2, np.int32)}},
        rf"{W} is int32; parameters must be floating point",
    ),
    "delta shape": (
        {"step": Misfit({"w": np.zeros(3, np.float32)})},
        rf"`delta\['w'\]` is float32\[3\], but {W} is float32\[2\]; they must agree",
    ),
    "delta dtype": (
        {"step": Misfit({"w": np.zeros(2, np.int32)})},
        rf"`delta\['w'\]` is int32\[2\], but {W} is float32\[2\]; they must agree, but any float",
    ),
    "delta structure": (
        {"step": Misfit({"v": np.zeros(2, np.float32)})},
        rf"no leaf for {W}; it has delta\['v'\] instead",
    ),
    "seed below": ({"seed": -1}, r"`seed` must be non-negative, got -1\."),
    "seed above": ({"seed": 2**32}, r"`seed` must be at most 4294967295, got 4294967296\."),
}
BAD_TYPES = {
    "policy class": ({"policy": ssp.SSP}, r"`policy` must be a Policy such as `ssp.SSP\(bound=3\)"),
    "policy": ({"policy": "ssp"}, "`policy` must be a Policy such as .*, got 'ssp'"),
    "runtime": ({"runtime": 4}, r"`runtime` must be a Runtime such as `ssp.Devices\(\)`, got 4"),
    "num_clocks": ({"num_clocks": 2.5}, r"`num_clocks` must be an integer, got 2\.5\."),
    "max_updates": ({"max_updates": "9"}, r"`max_updates` must be an integer, got '9'\."),
    "local_steps": (
        {"local_steps": True},
        "`local_steps` must be an integer, .*, got True",
    ),
    "seed": ({"seed": 0.5}, r"`seed` must be an integer, got 0\.5\."),
    "observer": ({"observers": ssp.Observer()}, "`observers` must be a list of `ssp.Observer`s"),
    "observers": (
        {"observers": [ssp.Observer]},
        r"`observers\[0\]` must be an `ssp.Observer`, got Observer; ",
    ),
    "data": (
        {"data": [1, 2]},
        r"`data` must be a function \(worker\) -> batches, got \[1, 2\]; each worker needs one",
    ),
    "no batches": (
        {"data": lambda worker: 3},
        r"`data\(worker=0\)` must return an iterator of batches, got int",
    ),
    "step": (
        {"step": loss_fn},
        r"`step` must be callable and have an `init\(params\)`, got loss_fn; ",
    ),
    "results": ({"step": ssp.make_step(lambda p, b, k: p["w"][0], optax.sgd(0.1))}, "a loss func"),
    "evaluate": (
        {"evaluate": 0.5},
        r"`evaluate` must be a function \(params\) -> metrics, got 0\.5",
    ),
}


@pytest.mark.usefixtures("nothing_computes")
@pytest.mark.parametrize("runtime", [ssp.Virtual(4), ssp.Devices()], ids=["virtual", "devices"])
@pytest.mark.parametrize(("change", "message"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_is_refused_before_anything_computes(change, message, runtime):
    with pytest.raises(ValueError, match=message):
        ssp.train(**{**SPEC, "runtime": runtime, **change})


@pytest.mark.usefixtures("nothing_computes")
@pytest.mark.parametrize("runtime", [ssp.Virtual(4), ssp.Devices()], ids=["virtual", "devices"])
@pytest.mark.parametrize(("change", "message"), BAD_TYPES.values(), ids=BAD_TYPES)
def test_a_bad_type_is_refused_before_anything_computes(change, message, runtime):
    with pytest.raises(TypeError, match=message):
        ssp.train(**{**SPEC, "runtime": runtime, **change})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ssp.SSP(bound=-1), r"`SSP\(bound=...\)` must be non-negative, got -1\."),
        (lambda: ssp.Virtual(num_workers=0), r"`Virtual\(num_workers=...\)` must be at least 1"),
        (lambda: ssp.Devices(num_workers=0), r"`Devices\(num_workers=...\)` must be at least 1"),
    ],
)
def test_bad_parts_cannot_even_be_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_exactly_enough_data_is_enough():
    def data(worker):
        return itertools.islice(ones(worker), 6)

    result = ssp.train(**{**SPEC, "data": data}, runtime=virtual(1, 1), local_steps=3)
    assert result.updates == 4


def test_an_evaluation_that_gives_no_metrics_is_refused():
    with pytest.raises(TypeError, match=r"`evaluate` must return a dict of scalars, got 1\.0\."):
        ssp.train(**SPEC, runtime=virtual(1, 1), evaluate=lambda params: 1.0)
    message = r"`target` asks for 'accuracy', which is not among .* \['loss'"
    with pytest.raises(ValueError, match=message):
        ssp.train(
            **SPEC,
            runtime=virtual(1, 1),
            evaluate=lambda params: {"loss": 1.0},
            target="accuracy >= 0.5",
        )


# Defaults.


def test_what_is_left_out_has_a_default():
    result = ssp.train(STEP, params=SPEC["params"], data=ones, num_clocks=2)
    header = result.tape.header
    assert (header["policy"], header["bound"]) == (repr(ssp.SSP(bound=3)), 3)
    assert [index for _, index in header["devices"]] == [0, 1, 2, 3]
    assert header["time"] == "wall"
    assert {name: header["experiment"][name] for name in ("weight", "seed", "local_steps")} == {
        "weight": "mean",
        "seed": 0,
        "local_steps": 1,
    }


def test_the_steps_of_a_worker_see_its_batches_in_order_and_a_key_of_their_own():
    class Seen:
        init = staticmethod(lambda params: ())

        def __call__(self, params, worker_state, batch, key):
            drawn = jax.random.uniform(key)
            return {"w": jnp.zeros(2)}, worker_state, {"batch": batch, "drawn": drawn}

    def data(worker):
        return (np.float32(100 * worker + number) for number in itertools.count())

    def run(seed, policy=SPEC["policy"], clocks=3):
        spec = {**SPEC, "step": seen, "data": data, "num_clocks": clocks, "policy": policy}
        history = ssp.train(**spec, runtime=virtual(1, 3), seed=seed).history
        return {
            (row["worker"], row["clock"]): (row["metrics"]["batch"], row["metrics"]["drawn"])
            for row in history
        }

    seen = Seen()
    rows = run(seed=0)
    assert {place: batch for place, (batch, _) in rows.items()} == {
        (worker, clock): 100 * worker + clock for worker in range(2) for clock in range(3)
    }
    assert len({drawn for _, drawn in rows.values()}) == 6
    assert run(seed=0) == rows == run(seed=0, policy=ssp.ASP())
    key = jax.random.key(7)
    for number in (1, 2, 0):  # worker, clock, step
        key = jax.random.fold_in(key, number)
    assert run(seed=7)[1, 2][1] == float(jax.random.uniform(key))


# What a result says. Worker 0 takes 1 s a clock, worker 1 takes 2 s, bound 1. At 2 s both finish;
# worker 1 began earlier and comes first.

ROWS = [
    # worker, clock, start, finish, base_version, merge_version, staleness, lag, weight
    (0, 0, 0.0, 1.0, 0, 1, 0, 1, 0.5),
    (1, 0, 0.0, 2.0, 0, 2, 1, 0, 0.5),
    (0, 1, 1.0, 2.0, 1, 3, 1, 1, 0.5),
    (1, 1, 2.0, 4.0, 2, 4, 1, 0, 0.5),
]
COLUMNS = (
    *("worker", "clock", "start", "finish", "base_version", "merge_version"),
    *("staleness", "lag", "weight"),
)


def evaluate(params):
    return {"w": params["w"][0], "half": 0.5}


def test_the_schedule_has_a_row_a_clock():
    result = ssp.train(**SPEC, runtime=virtual(1, 2))
    assert result.schedule.dtype.names == (
        *(*COLUMNS[:2], "steps", *COLUMNS[2:]),
        *("samples", "tokens", "finite", "computed", "computing"),
    )
    assert result.schedule[list(COLUMNS)].tolist() == ROWS
    assert result.schedule["finite"].all()
    alone = ssp.train(policy=ssp.SSP(1), num_clocks=2, runtime=virtual(1, 2, compute=False))
    assert alone.schedule[list(COLUMNS)].tolist() == ROWS
    for weight, each in (("sum", 1.0), (0.25, 0.25)):
        result = ssp.train(**SPEC, runtime=virtual(1, 2), weight=weight)
        assert result.schedule["weight"].tolist() == [each] * 4


def test_the_history_has_the_same_and_the_metrics():
    result = ssp.train(**SPEC, runtime=virtual(1, 2))
    for number, (row, expected) in enumerate(zip(result.history, ROWS, strict=True)):
        assert tuple(row[name] for name in COLUMNS) == expected
        assert row["updates"] == number + 1
        assert set(row) == {
            *COLUMNS,
            "steps",
            "samples",
            "finite",
            "updates",
            "samples_seen",
            "tokens",
            "tokens_seen",
            "metrics",
        }
        assert set(row["metrics"]) == {"loss", "distance"}
    # SGD at 0.25 on the mean of two squares: w goes a quarter of the way to 1, times the weight.
    read = [0.0]  # the parameter at version 0, 1, ..
    for _, _, _, _, base, _, _, _, weight in ROWS:
        read.append(read[-1] + weight * 0.25 * (1 - read[base]))
    for row in result.history:
        w = read[row["base_version"]]
        assert row["metrics"]["loss"] == pytest.approx((1 - w) ** 2, rel=1e-6)
        assert row["metrics"]["distance"] == pytest.approx(2 * w, rel=1e-6)
    np.testing.assert_allclose(result.params["w"], [read[-1]] * 2, rtol=1e-6)


def test_a_dropped_delta_is_in_schedule_and_history():
    result = ssp.train(**{**SPEC, "num_clocks": None}, max_updates=3, runtime=virtual(1, 2))
    assert (result.updates, result.version, result.status) == (3, 3, "done")
    # Worker 1 began its second clock before the last merge.
    dropped = (1, 1, 2.0, 4.0, 2, -1, 0, 0, 0.0)
    assert result.schedule[list(COLUMNS)].tolist() == [*ROWS[:3], dropped]
    assert [row["merge_version"] for row in result.history] == [1, 2, 3, -1]
    assert "3 updates in 3 versions, 1 dropped or cancelled" in result.summary()


def test_the_summary_is_for_people():
    result = ssp.train(**SPEC, runtime=virtual(1, 2), evaluate=evaluate)
    w = float(result.params["w"][0])
    assert result.summary().split("\n") == [
        "SSP(bound=1, adopt='eager') on 2 workers: done",
        "4 updates in 4 versions, 0 dropped or cancelled",
        "4 local steps on 8 samples, 2 a virtual second",
        "4 virtual seconds, 75 % of the workers' time computing",
        "staleness: mean 0.75, at most 1",
        "time: useful 75.0%, finished 25.0%",
        f"last evaluation: w {w:.4g}, half 0.5",
    ]
    assert result.metrics == {"w": w, "half": 0.5}
    assert result.seconds == 4.0
    assert result.wall_seconds > 0
    alone = ssp.train(policy=ssp.ASP(), max_updates=1, runtime=virtual(1, compute=False))
    assert alone.summary().startswith("ASP() on 1 workers: done\n1 updates in 1 versions")
    assert alone.metrics == {}


def test_evaluations_come_every_so_many_clocks_of_all_workers():
    result = ssp.train(**{**SPEC, "num_clocks": 7}, runtime=virtual(1, 2), evaluate=evaluate,
                       eval_every=3)  # fmt: skip
    about = [(row["version"], row["updates"]) for row in result.evaluations]
    assert about == [(0, 0), (6, 6), (12, 12), (14, 14)]
    at = {row["merge_version"]: row["finish"] for row in result.history}
    assert [row["time"] for row in result.evaluations] == [0.0, at[6], at[12], at[14]]
    barrier = ssp.train(
        **{**SPEC, "policy": ssp.BSP(), "num_clocks": 7},
        runtime=virtual(1, 2),
        evaluate=evaluate,
        eval_every=3,
    )
    about = [(row["version"], row["updates"]) for row in barrier.evaluations]
    assert about == [(0, 0), (3, 6), (6, 12), (7, 14)]


# Observers.


class Diary(ssp.Observer):
    """Writes down which hook was called, and with what."""

    def __init__(self, name, entries):
        self.name, self.entries = name, entries

    def on_start(self, info):
        self.entries.append((self.name, "start", info))

    def on_entry(self, now, event, commands):
        self.entries.append((self.name, "entry", (now, event, list(commands))))

    def on_clock(self, row):
        self.entries.append((self.name, "clock", row))

    def on_eval(self, row):
        self.entries.append((self.name, "eval", row))

    def on_end(self, status):
        self.entries.append((self.name, "end", status))


def test_observers_are_told_everything_in_order_one_after_the_other():
    entries = []
    observers = [Diary("a", entries), Diary("b", entries)]
    result = ssp.train(
        **SPEC,
        runtime=virtual(1, 2),
        evaluate=evaluate,
        eval_every=1,
        observers=observers,
        name="it",
    )
    # In the order in which they were given; at the end the other way round.
    assert entries[0:-2:2] == [("a", *rest) for _, *rest in entries[1:-2:2]]
    assert [(name, kind) for name, kind, _ in entries[-2:]] == [("b", "end"), ("a", "end")]
    told = [(kind, what) for name, kind, what in entries if name == "b"]
    kinds = [kind for kind, _ in told]
    # Two workers join; then a clock is told before the row of the tape that it was merged in.
    one = ["clock", "entry"]
    evaluated = ["clock", "eval", "entry"]
    assert kinds == ["start", "eval", "entry", "entry", *one, *evaluated, *one, *evaluated, "end"]
    by_kind = {kind: [what for each, what in told if each == kind] for kind in kinds}
    assert by_kind["clock"] == result.history
    assert by_kind["eval"] == result.evaluations
    assert by_kind["entry"] == [tuple(entry) for entry in result.tape]
    assert by_kind["end"] == ["done"]
    (info,) = by_kind["start"]
    expected = {"name": "it", "num_workers": 2, "num_clocks": 2, "max_updates": None}
    assert {name: info[name] for name in expected} == expected
    assert info["policy"] == repr(ssp.SSP(1))
    assert info["time"] == "virtual"


def test_observers_see_the_clockwork_alone_too():
    entries = []
    runtime = virtual(1, 2, compute=False)
    ssp.train(policy=ssp.SSP(1), num_clocks=2, runtime=runtime, observers=[Diary("a", entries)])
    clocks = [what for _, kind, what in entries if kind == "clock"]
    assert [tuple(row[name] for name in COLUMNS[:-1]) for row in clocks] == [
        row[:-1] for row in ROWS
    ]


# Read-my-writes. Worker w pushes 2 ** (4 w + c) in clock c, so what it reads says what is in it.


class Told:
    """A step whose delta is the batch, and whose metrics are the parameters it was given."""

    init = staticmethod(lambda params: ())
    averaged = staticmethod(lambda params: {"trained": False, "averaged": True})

    def __call__(self, params, worker_state, batch, key):
        return {"trained": batch, "averaged": batch}, worker_state, params


def averaged_reads(tape):
    """What `Told` reads of what is averaged, by the rule for statistics: all moves are upwards."""
    workers = tape.header["num_workers"]
    versions, read = [0.0], {}

    def push(worker, clock):
        move = 2.0 ** (4 * worker + clock)
        return move, read[worker, clock] + move

    for _, _, commands in tape:
        for command in commands:
            if type(command).__name__ == "Merge":
                moves, values = zip(*(push(d.worker, d.clock) for d in command.deltas), strict=True)
                share = 1 / max(workers, len(moves))  # the same for all of these weights
                versions.append(min(versions[-1] + share * sum(moves), max(versions[-1], *values)))
            elif type(command).__name__ == "StartClock":
                local = versions[command.version]
                for stamp in command.pending:
                    move, value = push(command.worker, stamp)
                    local = min(local + move / workers, max(local, value))
                read[command.worker, command.clock] = local
    return read, versions[-1]


@pytest.mark.parametrize(("weight", "factor"), [("sum", 1.0), ("mean", 0.5), (3, 3.0)])
def test_a_worker_reads_its_own_writes_on_top_of_an_old_snapshot(weight, factor):
    # Worker 0 takes 1 s a clock and worker 1 takes 2.5 s. Lazy at bound 2: worker 0 keeps version 0
    # for clocks 0, 1 and 2. Clock 3 needs coverage 1, which is there only at 2.5 s. At 3 s worker 0
    # has done clock 2; it adopts what is there: its own 1, 2, 4 and worker 1's 16.
    result = ssp.train(
        Told(),
        params={"trained": np.float32(0), "averaged": np.float32(0)},
        data=lambda worker: (np.float32(2 ** (4 * worker + clock)) for clock in range(4)),
        policy=ssp.SSP(2, "lazy"),
        runtime=virtual(1, 2.5),
        num_clocks=4,
        weight=weight,
    )
    read, averaged = (
        {(row["worker"], row["clock"]): row["metrics"][name] for row in result.history}
        for name in ("trained", "averaged")
    )
    base = {(row["worker"], row["clock"]): row["base_version"] for row in result.history}
    expected = {
        (0, 0): (0, 0), (0, 1): (0, 1), (0, 2): (0, 1 + 2), (0, 3): (4, 1 + 2 + 4 + 16),
        (1, 0): (0, 0), (1, 1): (0, 16), (1, 2): (0, 16 + 32),
        # At 7.5 s worker 0 is done; coverage 1 is needed, and version 0 covers none.
        (1, 3): (7, 15 + 16 + 32 + 64),
    }  # fmt: skip
    assert base == {place: version for place, (version, _) in expected.items()}
    assert read == {place: factor * total for place, (_, total) in expected.items()}
    assert float(result.params["trained"]) == factor * 255
    assert (averaged, float(result.params["averaged"])) == averaged_reads(result.tape)


class LateMerge(ssp.Policy):
    """Merges four at a time, so that a worker adopts while its own are still on their way."""

    def ready(self, view):
        waiting = tuple(view.buffered)
        return ssp.policies.Decision(merge=waiting[:4] if len(waiting) >= 4 else ())


@pytest.mark.parametrize(("weight", "factor"), [("sum", 1.0), ("mean", 0.5), (3, 3.0)])
def test_a_worker_reads_its_own_writes_that_are_still_on_their_way(weight, factor):
    # Worker 0 at 1, 2, 3, 4 s, worker 1 at 1.75, 3.5, .. s; merged at 3 s: 1, 16, 2, 4.
    result = ssp.train(
        Told(),
        params={"trained": np.float32(0), "averaged": np.float32(0)},
        data=lambda worker: (np.float32(2 ** (4 * worker + clock)) for clock in range(4)),
        policy=LateMerge(),
        runtime=virtual(1, 1.75),
        num_clocks=4,
        weight=weight,
    )
    read, averaged = (
        {(row["worker"], row["clock"]): row["metrics"][name] for row in result.history}
        for name in ("trained", "averaged")
    )
    expected = {
        (0, 0): 0,
        (0, 1): 1,
        (0, 2): 1 + 2,
        (0, 3): 1 + 16 + 2 + 4,
        (1, 0): 0,
        (1, 1): 16,
        (1, 2): 1 + 16 + 2 + 4 + 32,
        (1, 3): 1 + 16 + 2 + 4 + 32 + 64,
    }
    assert read == {place: factor * total for place, total in expected.items()}
    assert float(result.params["trained"]) == factor * 255
    assert (averaged, float(result.params["averaged"])) == averaged_reads(result.tape)
    ssp.check_contract(result.tape)


class InPairs(ssp.Policy):
    """Merges two at a time, as they come."""

    def ready(self, view):
        waiting = tuple(view.buffered)
        return ssp.policies.Decision(merge=waiting[:2] if len(waiting) >= 2 else ())


def test_the_servers_transform_is_told_of_the_stalest_delta_in_a_merge():
    names = ("staleness", "lag", "worker", "num_workers")

    def update(updates, state, params=None, **extras):
        del updates
        told = jnp.stack([extras[name] for name in names]).astype(jnp.float32)
        return {"told": told - params["told"]}, state

    class Nothing:
        init = staticmethod(lambda params: ())

        def __call__(self, params, worker_state, batch, key):
            return jax.tree.map(jnp.zeros_like, params), worker_state, {}

    result = ssp.train(
        Nothing(),
        params={"told": np.zeros(4, np.float32)},
        data=ones,
        policy=InPairs(),
        runtime=virtual(1, 2.25, 4),
        server_tx=optax.GradientTransformationExtraArgs(lambda params: (), update),
        num_clocks=6,
        evaluate=lambda params: dict(zip(names, params["told"], strict=True)),
        eval_every=1,
    )
    told = {row["version"]: tuple(row["metrics"].values()) for row in result.evaluations}
    merges = [c for _, _, commands in result.tape for c in commands if hasattr(c, "deltas")]
    for merge in merges:
        stalest = max(merge.deltas, key=lambda delta: delta.staleness)
        expected = (stalest.staleness, stalest.lag, stalest.worker, merge.num_workers)
        assert told.get(merge.version, expected) == expected
    seen = [merge.deltas for merge in merges if merge.version in told]
    assert {two.staleness - one.staleness > 0 for one, two in seen} == {True, False}
