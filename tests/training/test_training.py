"""`train`: its defaults, and the numbers in a result and those that its parts are told."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jax_ssp as ssp
from tests.helpers.training import SPEC, STEP, ones, virtual

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


# The server's transform.


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
