"""A replay gives the recorded run's parameters to the last bit, or says why it cannot."""

import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_ssp as ssp
from jax_ssp import delays
from jax_ssp.controller.commands import Merge, StartClock
from tests.helpers.problems import PARAMS, STEP, batches, bits, linear, loss_fn, merges

JITTER = delays.ShiftedExponential(shift=0.0, mean=0.003)


class Net(nnx.Module):
    """With dropout and running statistics: a step of it depends on everything a step can."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.dense(x)))))[:, 0]


def net_loss(model, batch):
    x, y = batch
    loss = jnp.mean((model(x) - y) ** 2)
    return loss, {"rmse": jnp.sqrt(loss)}


def make_net_step():
    return ssp.make_nnx_step(Net(nnx.Rngs(0)), net_loss, optax.adam(0.02))


NET_STEP = make_net_step()


def net(policy, local_steps=1, server_tx=None):
    return {
        "step": NET_STEP,
        "data": batches,
        "policy": policy,
        "local_steps": local_steps,
        "num_clocks": 12,
        "server_tx": server_tx,
    }


def assert_same(again, result):
    assert bits(again.params) == bits(result.params)
    assert list(again.tape) == list(result.tape)
    assert again.history == result.history
    assert again.tape.complete == result.tape.complete
    assert (again.status, again.updates) == (result.status, result.updates)
    assert (again.version, again.seconds) == (result.version, result.seconds)
    assert ssp.check_contract(again.tape) == ssp.check_contract(result.tape)


def scaled():
    return ssp.mitigations.scale_by_staleness()


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize(
    ("policy", "server_tx"),
    [(ssp.SSP(2), scaled), (ssp.SSP(2, "lazy"), None), (ssp.ASP(), None), (ssp.BSP(), None)],
    ids=["ssp", "lazy", "asp", "bsp"],
)
@pytest.mark.every(8)
def test_a_run_on_devices_replays_to_the_last_bit(policy, server_tx, local_steps):
    spec = net(policy, local_steps, server_tx and server_tx())
    result = ssp.train(
        runtime=ssp.Devices(num_workers=4, workers_per_device=2, delay=JITTER), **spec
    )
    assert len(result.tape.header["devices"]) == 4
    report = ssp.check_contract(result.tape)
    assert (report.merged, report.complete) == (48, True)
    assert_same(ssp.train(runtime=ssp.Replay(result.tape), **spec), result)


def virtual(seed=0, num_workers=4):
    return ssp.Virtual(num_workers, delays.Exponential(), seed)


@pytest.mark.parametrize("policy", [ssp.SSP(3), ssp.ASP(), ssp.BSP()], ids=repr)
@pytest.mark.parametrize("ends", [{"num_clocks": 10}, {"max_updates": 33}], ids=repr)
def test_a_virtual_run_replays_to_the_last_bit(policy, ends):
    spec = linear(policy=policy, **ends)
    result = ssp.train(runtime=virtual(), **spec)
    assert_same(ssp.train(runtime=ssp.Replay(result.tape), **spec), result)


def test_only_the_tape_makes_the_bits_the_same():
    spec = linear(policy=ssp.ASP(), num_clocks=10)
    one, other = (ssp.train(runtime=virtual(seed), **spec) for seed in (0, 1))
    assert bits(one.params) != bits(other.params)
    for result in (one, other):
        assert_same(ssp.train(runtime=ssp.Replay(result.tape), **spec), result)


def test_the_clockwork_alone_replays_too():
    spec = {"policy": ssp.SSP(1), "num_clocks": 20}
    result = ssp.train(runtime=ssp.Virtual(8, delays.Exponential(), compute=False), **spec)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert list(again.tape) == list(result.tape)
    assert again.params is None


def test_a_replay_of_a_replay_and_several_workers_on_a_device():
    devices = [jax.devices()[number] for number in (1, 3, 1, 1)]
    spec = linear(policy=ssp.SSP(1), num_clocks=6)
    result = ssp.train(runtime=ssp.Devices(devices, delay=JITTER), **spec)
    assert [index for _, index in result.tape.header["devices"]] == [1, 3, 1, 1]
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert again.tape.header == result.tape.header
    assert_same(ssp.train(runtime=ssp.Replay(again.tape), **spec), result)


def test_evaluations_are_replayed_and_a_reached_target_ends_the_replay_too():
    spec = linear(
        policy=ssp.SSP(2),
        num_clocks=1000,
        evaluate=lambda params: {"distance": jnp.linalg.norm(params["w"] - jnp.arange(6.0))},
        eval_every=2,
        target="distance <= 1.5",
    )
    result = ssp.train(runtime=virtual(), **spec)
    assert result.status == "target"
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert_same(again, result)
    assert again.evaluations == result.evaluations
    without = {name: spec[name] for name in spec if name not in ("evaluate", "eval_every")}
    blind = ssp.train(runtime=ssp.Replay(result.tape), **{**without, "target": None})
    assert (bits(blind.params), blind.status) == (bits(result.params), "target")


# Through a file.


def test_a_tape_read_back_from_its_file_replays(tmp_path):
    spec = linear(policy=ssp.SSP(2), num_clocks=8)
    result = ssp.train(runtime=ssp.Devices(delay=JITTER), **spec)
    ssp.write_tape(tmp_path / "tape.jsonl.gz", result.tape)
    tape = ssp.read_tape(tmp_path / "tape.jsonl.gz")
    assert_same(ssp.train(runtime=ssp.Replay(tape), **spec), result)


class Common:
    """Batches that all workers draw from one source, each with an iterator of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, worker):
        yield next(batches(worker))  # the first is what a replay is compared by at once
        while True:
            yield tuple(np.float32(self.rng.normal(size=x.shape)) for x in next(batches(worker)))


@pytest.mark.parametrize("from_file", [False, True])
def test_batches_that_depend_on_the_other_workers_are_found_out(tmp_path, from_file):
    spec = linear(policy=ssp.ASP(), num_clocks=6)
    runtime = ssp.Virtual(2, delay=delays.PerWorker((1.0, 1.5)))
    tape = ssp.train(runtime=runtime, **{**spec, "data": Common()}).tape
    if from_file:
        ssp.write_tape(tmp_path / "tape.jsonl.gz", tape)
        tape = ssp.read_tape(tmp_path / "tape.jsonl.gz")
    assert re.fullmatch("[0-9a-f]{16}", tape.params)
    common = Common()
    common.rng.normal()  # as if somebody had drawn
    with pytest.raises(ssp.TapeMismatch, match="the parameters at the end are not those of"):
        ssp.train(runtime=ssp.Replay(tape), **{**spec, "data": common})
    tape.params = None  # as in tapes of before
    assert ssp.train(runtime=ssp.Replay(tape), **{**spec, "data": common}).status == "done"


ELSEWHERE = """
import sys
sys.path[:0] = [{root!r}]
from tests import conftest
from tests.runtimes import test_replay as t
t.jax.config.update("jax_numpy_dtype_promotion", "standard")
tape = t.ssp.read_tape({path!r})
result = t.ssp.train(runtime=t.ssp.Replay(tape), **t.net(t.ssp.SSP(2), 3, t.scaled()))
print(t.fingerprint(result.params))
"""


def fingerprint(params):
    return hashlib.sha256(repr(bits(params)).encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_another_process_gives_the_same_bits(tmp_path):
    result = ssp.train(runtime=ssp.Devices(delay=JITTER), **net(ssp.SSP(2), 3, scaled()))
    path, root = tmp_path / "tape.jsonl.gz", Path(__file__).parents[2]
    ssp.write_tape(path, result.tape)
    program = ELSEWHERE.format(root=str(root), path=str(path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [fingerprint(result.params)]


def shortened(tape, length):
    """The tape as it is if its recording broke off after this many rows."""
    short = ssp.Tape(tape.header)
    for line in list(tape.lines())[:length]:
        short.read_line(line)
    return short


@pytest.mark.parametrize("runtime", [virtual(), ssp.Devices(delay=JITTER)], ids=["virtual", "dev"])
@pytest.mark.every(2)
def test_a_tape_that_breaks_off_replays_up_to_there(runtime):
    spec = linear(policy=ssp.SSP(1), num_clocks=6)
    result = ssp.train(runtime=runtime, **spec)
    for length in (0, 3, 11, len(result.tape) - 1):
        tape = shortened(result.tape, length)
        again = ssp.train(runtime=ssp.Replay(tape), **spec)
        assert (again.status, again.tape.complete) == ("stopped", False)
        assert list(again.tape) == list(result.tape)[:length]
        assert again.version == len(merges(again.tape))
        assert again.history == result.history[: again.updates]
        assert ssp.check_contract(again.tape).in_flight == 0
    whole = ssp.train(runtime=ssp.Replay(shortened(result.tape, len(result.tape))), **spec)
    assert bits(whole.params) == bits(result.params)


# Refusals.

SPEC = linear(policy=ssp.SSP(2), num_clocks=6, seed=0, weight="mean", local_steps=1)


@pytest.fixture(scope="module")
def recorded():
    return ssp.train(runtime=virtual(), **SPEC)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"policy": ssp.SSP(3)}, {"policy"}),
        ({"policy": ssp.SSP(2, "lazy")}, {"policy"}),
        ({"policy": ssp.ASP()}, {"policy"}),
        ({"seed": 1}, {"seed"}),
        ({"step": ssp.make_step(loss_fn, optax.sgd(0.06))}, {"step"}),
        ({"step": ssp.make_step(loss_fn, optax.sgd(0.05, momentum=0.9))}, {"step"}),
        ({"data": lambda worker: batches(worker, seed=1)}, {"batches"}),
        ({"data": lambda worker: batches(worker % 3)}, {"batches"}),
        ({"params": {"w": np.eye(6, dtype=np.float32)[0]}}, {"params"}),
        ({"weight": "sum"}, {"weight"}),
        ({"weight": 0.25}, {"weight"}),
        ({"num_clocks": 7}, {"num_clocks"}),
        ({"max_updates": 100}, {"max_updates"}),
        ({"local_steps": 2}, {"local_steps", "step"}),
        ({"server_tx": optax.scale(0.5)}, {"server_tx"}),
    ],
)
def test_a_tape_of_another_experiment_is_refused_by_what_differs(recorded, change, names):
    with pytest.raises(ssp.TapeMismatch, match="the tape is of another experiment") as caught:
        ssp.train(runtime=ssp.Replay(recorded.tape), **{**SPEC, **change})
    assert set(re.findall(r"(\w+): recorded", str(caught.value))) == names


def test_what_is_no_tape_is_refused_at_once(recorded):
    for other in ("run", Path("run"), recorded, None):
        message = (
            rf"must be given a tape, got a {type(other).__name__}; give `result\.tape`, or `ssp"
        )
        with pytest.raises(TypeError, match=message):
            ssp.Replay(other)


def test_a_refusal_shows_both_values(recorded):
    with pytest.raises(ssp.TapeMismatch, match=r"num_clocks: recorded 6, here 7\."):
        ssp.train(runtime=ssp.Replay(recorded.tape), **{**SPEC, "num_clocks": 7})


@dataclass(frozen=True)
class Favourites(ssp.SSP):
    """A policy with a field that JSON has no type for."""

    workers: tuple[int, ...] = (1, 2)


def test_a_policy_with_a_tuple_is_not_another_policy(tmp_path):
    spec = {**SPEC, "policy": Favourites()}
    result = ssp.train(runtime=virtual(), **spec)
    assert_same(ssp.train(runtime=ssp.Replay(result.tape), **spec), result)
    with pytest.raises(ssp.TapeMismatch, match=r"\[1, 2\].*\[2, 1\]"):
        ssp.train(
            runtime=ssp.Replay(result.tape), **{**spec, "policy": Favourites(3, "eager", (2, 1))}
        )


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (["cpu", 7], r"recorded on cpu device 7, but there are 4 cpu devices .*_DEVICES=8"),
        (["quantum", 0], r"recorded on quantum device 0, but there are 0 quantum devices here"),
    ],
)
def test_devices_that_are_not_here_are_named(recorded, device, message):
    tape = ssp.Tape({**recorded.tape.header, "devices": [["cpu", 0]] * 3 + [device]})
    with pytest.raises(ValueError, match=message):
        ssp.train(runtime=ssp.Replay(tape), **SPEC)


def edited(tape, row, kind, **fields):
    """The tape with the first command of a kind from a row on edited."""
    other, done = ssp.Tape(tape.header), False
    for number, (now, event, commands) in enumerate(tape):
        for at, command in enumerate(commands):
            if not done and number >= row and isinstance(command, kind):
                commands[at], done = command._replace(**fields), True
        other.append(now, event, commands)
    assert done
    return other


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (StartClock, {"version": 0}),
        (StartClock, {"pending": (3,)}),
        (StartClock, {"local_steps": 2}),
        (Merge, {"num_workers": 5}),
    ],
)
def test_an_edited_command_is_shown_beside_the_one_given_here(recorded, kind, fields):
    tape = edited(recorded.tape, 9, kind, **fields)
    with pytest.raises(ssp.TapeMismatch) as caught:
        ssp.train(runtime=ssp.Replay(tape), **SPEC)
    message = str(caught.value)
    assert re.search(rf"the recording answers {kind.__name__}\(.*\) and this run", message)
    name, value = next(iter(fields.items()))
    before, after = message.split(" and this run ")
    assert f"{name}={value!r}" in before
    assert f"{name}={value!r}" not in after


@pytest.mark.parametrize("change", ["missing", "added"])
def test_a_command_too_many_or_too_few_is_noticed(recorded, change):
    other = ssp.Tape(recorded.tape.header)
    for number, (now, event, commands) in enumerate(recorded.tape):
        if number == 9:
            commands = commands[:-1] if change == "missing" else [*commands, commands[-1]]
        other.append(now, event, commands)
    with pytest.raises(ssp.TapeMismatch, match=r"the recording answers .* and this run"):
        ssp.train(runtime=ssp.Replay(other), **SPEC)


def test_a_step_is_known_by_what_it_computes():
    result = ssp.train(runtime=virtual(), **SPEC)
    again = {**SPEC, "step": ssp.make_step(loss_fn, optax.sgd(0.05)), "params": dict(PARAMS)}
    assert again["step"] != STEP
    assert_same(ssp.train(runtime=ssp.Replay(result.tape), **again), result)
