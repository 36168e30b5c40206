"""Observers see versions as they are made, and may end a run; the same in every world."""

import threading

import jax.numpy as jnp
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import StopRequested
from jax_ssp.policies import ALL_POLICIES
from jax_ssp.runtimes import wall
from jax_ssp.server.local_store import LocalStore
from jax_ssp.server.snapshot import Snapshot
from tests.helpers.problems import PARAMS, batches, bits, linear

JITTER = ssp.delays.Exponential()
QUICK = (ssp.BSP, ssp.SSP, ssp.KSync, ssp.FedBuff)
POLICIES = [
    pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in ALL_POLICIES
]
LARGE = 90_000  # numbers: memory of versions is used again


def train(runtime, **others):
    usual = {"policy": ssp.BSP(), "num_clocks": 6}
    return ssp.train(runtime=runtime, **{**linear(), **usual, **others})


def evaluate(params):
    return {"norm": jnp.sum(params["w"] ** 2)}


class Sees(ssp.Observer):
    """Keeps all that it sees: as it was given, and a copy that nothing can overwrite."""

    def __init__(self):
        self.versions, self.evaluated = [], []

    def on_version(self, version):
        self.versions.append(self._seen(version))

    def on_evaluated(self, version, row):
        assert (version.version, version.updates) == (row["version"], row["updates"])
        self.evaluated.append((self._seen(version), row["metrics"]))

    def _seen(self, version):
        self.last = version
        numbers = (version.version, version.updates, version.steps, version.samples)
        trees = version.params, version.masters
        return numbers, trees, bits(trees)

    def check(self):
        for _, trees, copied in [*self.versions, *(seen for seen, _ in self.evaluated)]:
            assert bits(trees) == copied


def numbers_and_bits(seen):
    return [(numbers, copied) for numbers, _, copied in seen]


def test_each_version_is_told_with_how_far_training_has_come():
    sees = Sees()
    result = train(ssp.Virtual(num_workers=2), local_steps=3, observers=[sees], num_clocks=4)
    expected = [(v, 2 * v, 6 * v, 24 * v) for v in range(5)]  # batches of 4
    assert [numbers for numbers, _, _ in sees.versions] == expected
    assert sees.versions[0][2][1][0] == bits(PARAMS)[1][0]
    assert bits(sees.versions[-1][1][0]) == bits(result.params)
    assert not sees.evaluated


def test_worlds_show_the_same_versions_with_the_same_bits_and_metrics():
    seen = {}
    spec = {"evaluate": evaluate, "eval_every": 2, "eval_waits": True}
    virtual = ssp.Virtual(num_workers=3, delay=JITTER)
    worlds = {"virtual": virtual, "devices": ssp.Devices(num_workers=3)}
    for name, runtime in worlds.items():
        seen[name] = Sees()
        result = train(runtime, observers=[seen[name]], **spec)
        seen[f"replay of {name}"] = again = Sees()
        train(ssp.Replay(result.tape), observers=[again], **spec)
    first, *others = seen.values()
    assert [numbers[0] for numbers, _, _ in first.versions] == list(range(7))
    assert [numbers[0] for (numbers, _, _), _ in first.evaluated] == [0, 2, 4, 6]
    for each in others:
        assert numbers_and_bits(each.versions) == numbers_and_bits(first.versions)
        for one, other in zip(each.evaluated, first.evaluated, strict=True):
            assert numbers_and_bits([one[0]]) == numbers_and_bits([other[0]])
            assert one[1] == other[1]
    for each in seen.values():
        each.check()


@pytest.mark.parametrize("placement", [None, "devices"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("world", ["virtual", "devices"])
@pytest.mark.every(8)
def test_what_was_read_is_not_overwritten(world, dtype, placement):
    runtime = ssp.Devices(num_workers=2) if world == "devices" else ssp.Virtual(num_workers=2)
    sees = Sees()
    ssp.train(
        ssp.make_step(lambda p, b, key: (jnp.mean((p["w"] - b) ** 2), {}), optax.sgd(1e3)),
        params={"w": jnp.zeros(LARGE, dtype), "b": jnp.zeros(3)},
        data=lambda worker: iter([jnp.asarray(worker + 1, dtype)] * 40),
        policy=ssp.ASP(),
        runtime=runtime,
        placement=placement,
        evaluate=lambda params: {"w": params["w"][0]},
        eval_every=1,
        num_clocks=6,
        observers=[sees],
    )
    sees.check()
    assert len(sees.versions) == 13
    different = {copied[1][1] for _, _, copied in sees.versions}
    assert len(different) == 13
    first = sees.versions[0][1]
    assert first[0]["w"].dtype == dtype
    assert first[1]["w"].dtype == jnp.float32


class Counts(ssp.Observer):
    """Sees versions, and reads none."""

    count = 0

    def on_version(self, version):
        self.count += 1


@pytest.mark.parametrize("observer", [ssp.Observer(), Counts()])
def test_nothing_is_fetched_or_kept_that_nobody_reads(observer, monkeypatch):
    fetched = []
    for name in ("params", "masters", "states"):
        whole = getattr(LocalStore, name)

        def read(store, name=name, whole=whole):
            fetched.append(name)
            return whole.fget(store)

        monkeypatch.setattr(LocalStore, name, property(read))
    runs = []
    for observers in ([], [observer]):
        train(ssp.Virtual(num_workers=2), policy=ssp.ASP(), observers=observers)
        runs.append(list(fetched))
        fetched.clear()
    assert runs[0] == runs[1]
    assert getattr(observer, "count", 13) == 13


def test_a_version_keeps_its_memory_only_if_it_was_read(monkeypatch):
    kept, keep = [], Snapshot.keep
    monkeypatch.setattr(Snapshot, "keep", lambda self: kept.append(self.version) or keep(self))

    class ReadsOne(ssp.Observer):
        def on_version(self, version):
            if version.version == 3:
                assert version.params["w"].shape == (6,)

    train(ssp.Virtual(num_workers=2))
    usual = set(kept)
    train(ssp.Virtual(num_workers=2), observers=[ReadsOne()])
    assert set(kept) - usual == {3}


def test_states_of_the_server_are_copies():
    states = []

    class Reads(ssp.Observer):
        def on_version(self, version):
            states.append(version.states)

    tx = ssp.outer(optax.sgd(0.5, momentum=0.9))
    result = train(ssp.Virtual(num_workers=2), server_tx=tx, observers=[Reads()])
    traces = [bits(server) for server, _ in states]
    assert len({each[1][0][2] for each in traces}) == 7
    assert bits(result.states.server) == traces[-1]


def test_a_version_is_read_while_it_is_told_of():
    sees = Sees()
    train(ssp.Virtual(num_workers=2), observers=[sees], evaluate=evaluate)
    for name in ("params", "masters", "states"):
        with pytest.raises(RuntimeError, match=rf"`Version.{name}` of version 6 was read after"):
            getattr(sees.last, name)


def test_containers_are_the_observers_to_change():
    class Clears(ssp.Observer):
        def on_version(self, version):
            version.params.clear()
            version.masters.clear()

    result = train(ssp.Virtual(num_workers=2), observers=[Clears()])
    assert bits(result.params) == bits(train(ssp.Virtual(num_workers=2)).params)


def test_an_evaluation_aside_shows_its_own_version_though_there_are_newer_ones():
    began, gate, errors = threading.Event(), threading.Event(), []

    def slow(params):
        if threading.current_thread() is not threading.main_thread():
            began.set()
            assert gate.wait(30)
        return evaluate(params)

    class Opens(Sees):
        def on_version(self, version):
            super().on_version(version)
            if version.version == 2:
                assert began.wait(30)  # version 1 is being evaluated
            if version.version == 4:
                gate.set()

        def on_evaluated(self, version, row):
            super().on_evaluated(version, row)
            if version.version == 1:
                with pytest.raises(RuntimeError, match=r"is gone: by now .*`eval_waits=True`"):
                    version.states  # noqa: B018
                errors.append(1)

    sees = Opens()
    train(ssp.Devices(num_workers=2), evaluate=slow, eval_every=1, observers=[sees])
    made = dict(numbers_and_bits(sees.versions))
    seen = numbers_and_bits([seen for seen, _ in sees.evaluated])
    assert errors == [1]
    assert len(seen) < 7  # those due before the gate was open are passed over
    assert all(made[numbers] == copied for numbers, copied in seen)


def test_everybody_waits_for_an_evaluation_that_waits():
    """It is made by whoever takes the merge in, and nothing else is taken in meanwhile."""
    count, during, threads = [0], [], set()

    class Counting(ssp.Observer):
        def on_clock(self, row):
            count[0] += 1

    def looking(params):
        before = count[0]
        threads.add(threading.current_thread().name)
        metrics = {"norm": float(evaluate(params)["norm"])}
        during.append(count[0] - before)
        return metrics

    spec = {"evaluate": looking, "eval_every": 1, "eval_waits": True, "policy": ssp.SSP(2)}
    result = train(ssp.Devices(num_workers=3), observers=[Counting()], **spec)
    assert [row["passed_over"] for row in result.evaluations] == [0] * 7
    assert during == [0] * 7
    assert "ssp-evaluation" not in threads


@pytest.mark.parametrize("world", ["virtual", "devices"])
def test_a_target_of_an_evaluation_that_waits_ends_the_run_at_once(world):
    runtime = ssp.Virtual(num_workers=3) if world == "virtual" else ssp.Devices(num_workers=3)
    spec = {"evaluate": evaluate, "eval_waits": True, "target": "norm >= 1"}
    result = train(runtime, num_clocks=1000, **spec)
    reached = next(row["version"] for row in result.evaluations if row["metrics"]["norm"] >= 1)
    assert (result.status, result.version) == ("target", reached + 1)


# The end, as observers want it.


class StopsAt(ssp.Observer):
    def __init__(self, version):
        self.at = version

    def on_version(self, version):
        if version.version >= self.at:
            self.stop(f"version {self.at} is enough")


def reasons(tape):
    return [event.reason for _, event, _ in tape if isinstance(event, StopRequested)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.__name__)
@pytest.mark.every(3)
def test_an_observer_ends_a_run_under_every_policy(policy):
    policy = policy() if policy is not ssp.PSP else ssp.PSP(2, 1)
    spec = {"policy": policy, "num_clocks": 50}
    virtual = ssp.Virtual(num_workers=4, delay=JITTER)
    result = train(virtual, observers=[StopsAt(3)], **spec)
    assert (result.status, result.reason) == ("early", "version 3 is enough")
    assert reasons(result.tape) == ["early: version 3 is enough"]
    assert 3 <= result.version < 12
    ssp.check_contract(result.tape)
    again = train(ssp.Replay(result.tape), **spec)
    assert (again.status, again.reason) == ("early", result.reason)
    assert bits(again.params) == bits(result.params)


def test_a_stop_takes_effect_at_the_same_version_in_every_world():
    results = [
        train(runtime, num_clocks=500, observers=[StopsAt(4)])
        for runtime in (ssp.Virtual(num_workers=3), ssp.Devices(num_workers=3))
    ]
    results += [
        train(ssp.Replay(each.tape), num_clocks=500, observers=[StopsAt(4)]) for each in results
    ]
    assert {(each.status, each.version) for each in results} == {("early", 5)}
    assert len({str(bits(each.params)) for each in results}) == 1
    for each in results:
        kinds = [type(event).__name__ for _, event, _ in each.tape]
        assert kinds[kinds.index("StopRequested") + 1 :] == ["DeltaReady"] * 3  # under way by then


def test_in_a_replay_the_tape_says_when_it_ends():
    tape = train(ssp.Virtual(num_workers=2)).tape
    again = train(ssp.Replay(tape), observers=[StopsAt(2)])
    assert (again.status, again.version) == ("done", 6)


@pytest.mark.parametrize("world", ["virtual", "devices"])
@pytest.mark.parametrize(
    "method", ["on_start", "on_entry", "on_clock", "on_version", "on_eval", "on_evaluated"]
)
@pytest.mark.every(5)
def test_any_hook_may_ask_for_the_end_once_or_often(method, world):
    observer = ssp.Observer()
    setattr(observer, method, lambda *_: observer.stop("enough"))
    observer.needs_evaluation = True
    runtime = ssp.Virtual(num_workers=2) if world == "virtual" else ssp.Devices(num_workers=2)
    spec = {"num_clocks": 500, "evaluate": evaluate, "eval_waits": True}
    result = train(runtime, observers=[observer], **spec)
    assert (result.status, result.reason) == ("early", "enough")
    assert len(set(reasons(result.tape))) == 1
    assert result.version <= 2
    train(ssp.Replay(result.tape), **spec)


def test_a_thread_that_an_observer_has_may_ask_too():
    asked = threading.Event()

    class Threaded(ssp.Observer):
        def on_clock(self, row):
            if row["clock"] == 2 and not asked.is_set():
                thread = threading.Thread(target=self.stop, args=("from elsewhere",))
                thread.start()
                thread.join(30)
                assert not thread.is_alive()
                asked.set()

    for runtime in (ssp.Virtual(num_workers=2), ssp.Devices(num_workers=2)):
        asked.clear()
        result = train(runtime, num_clocks=100_000, observers=[Threaded()])
        assert (result.status, result.reason) == ("early", "from elsewhere")


def test_the_end_of_a_run_that_waits_for_its_data_may_be_asked_for(monkeypatch):
    """Nobody is taking an event then, so the request itself wakes the run."""
    monkeypatch.setattr(wall, "SIGNAL_SECONDS", 100.0)  # else the run looks by itself
    begun, go_on = threading.Event(), threading.Event()

    class Watching(ssp.Observer):
        def on_entry(self, now, event, commands):
            if isinstance(event, StopRequested):
                go_on.set()

    def data(worker):
        source = batches(worker)
        for _ in range(3):
            yield next(source)
        begun.set()
        assert go_on.wait(30)
        yield from source

    observer = Watching()

    def ask():
        assert begun.wait(30)
        observer.stop("no more data comes")

    thread = threading.Thread(target=ask)
    thread.start()
    runtime = ssp.Devices(num_workers=1)
    result = train(runtime, num_clocks=100, data=data, observers=[observer])
    thread.join(30)
    assert (result.status, result.reason) == ("early", "no more data comes")


def test_a_stop_is_heard_by_a_run_alone_and_has_a_reason():
    observer = ssp.Observer()
    with pytest.raises(RuntimeError, match=r"`Observer\.stop` was called while it watches no run"):
        observer.stop("why not")
    observer.on_start = lambda info: observer.stop("")
    with pytest.raises(ValueError, match=r"`Observer.stop\(reason=...\)`"):
        train(ssp.Virtual(num_workers=2), observers=[observer])
    observer.on_start = lambda info: None
    observer.on_end = lambda status: observer.stop("it is over anyway")
    assert train(ssp.Virtual(num_workers=2), observers=[observer]).status == "done"
    with pytest.raises(RuntimeError, match="watches no run"):
        observer.stop("it was heard once")


def test_a_run_that_ends_by_its_updates_is_done_whatever_observers_want_then():
    result = train(ssp.Virtual(num_workers=2), max_updates=6, observers=[StopsAt(3)])
    assert (result.status, result.version, result.reason) == ("done", 3, "")
    assert train(ssp.Virtual(2), max_updates=6, observers=[StopsAt(2)]).status == "early"


def test_the_clockwork_alone_ends_early_too():
    class Stops(ssp.Observer):
        def on_clock(self, row):
            if row["clock"] == 2:
                self.stop("seen enough")

    runtime = ssp.Virtual(num_workers=3, compute=False)
    result = ssp.train(runtime=runtime, num_clocks=50, policy=ssp.BSP(), observers=[Stops()])
    assert (result.status, result.version) == ("early", 4)


@pytest.mark.parametrize("method", ["on_version", "on_evaluated"])
@pytest.mark.parametrize("world", ["virtual", "devices"])
def test_a_hook_that_raises_ends_the_run_with_what_there_is(method, world):
    observer, other = ssp.Observer(), Sees()

    def fail(version, *row):
        if version.version == 2:
            raise LookupError("in the hook")

    setattr(observer, method, fail)
    runtime = ssp.Virtual(num_workers=2) if world == "virtual" else ssp.Devices(num_workers=2)
    spec = {"evaluate": evaluate, "eval_every": 1, "eval_waits": True}
    with pytest.raises(LookupError, match="in the hook") as caught:
        train(runtime, observers=[observer, other], num_clocks=100, **spec)
    assert f"in Observer.{method}" in caught.value.__notes__
    assert (caught.value.result.status, caught.value.result.version) == ("failed", 2)
    assert [numbers[0] for numbers, _, _ in other.versions] == [0, 1, 2]


def test_what_is_kept_has_a_name_of_its_own():
    class Keeps(ssp.Observer):
        def __init__(self, name):
            self.name = name

        def kept(self):
            return ssp.Kept(self.name, {"w": jnp.ones(2)}, {"why": "for a test"})

    run = train(ssp.Virtual(num_workers=2), observers=[Keeps("mine"), Keeps("mine"), Keeps("b")])
    assert sorted(run.kept) == ["b", "mine", "mine-2"]
    for name in ("params", "../there", "", 3):
        with pytest.raises(ValueError, match=r"`Keeps\.kept`") as caught:
            train(ssp.Virtual(num_workers=2), observers=[Keeps(name), Keeps("mine")])
        assert caught.value.result.version == 6
        assert list(caught.value.result.kept) == ["mine"]


def test_waiting_for_evaluations_needs_some():
    with pytest.raises(ValueError, match="`eval_waits` needs `evaluate`"):
        train(ssp.Virtual(num_workers=2), eval_waits=True)
    with pytest.raises(TypeError, match="`eval_waits` must be True or False"):
        train(ssp.Virtual(num_workers=2), eval_waits=1)
