"""A run whose controller is in an actor too: what it comes to, and what if that one dies."""

import contextlib
import itertools
import os
import signal
import threading
from pathlib import Path

import numpy as np
import optax
import pytest

import jax_ssp as ssp
from jax_ssp.controller import Resumed
from jax_ssp.runtimes.dealing import left_out
from jax_ssp.runtimes.ray import pool
from jax_ssp.runtimes.ray.carried import LostController
from tests.helpers.problems import bits, linear, loss_fn

pytestmark = pytest.mark.ray

MOMENTUM = ssp.make_step(loss_fn, optax.sgd(0.02, momentum=0.5))
SLOWLY = ssp.delays.Constant(0.03)


def there(**given):
    return ssp.Ray(2, controller="actor", **given)


class Counts(ssp.Observer):
    """Counts the clocks, and says where; ends the run after so many."""

    def __init__(self, most=10**9):
        self.most, self.clocks, self.pid = most, 0, None

    def on_clock(self, row):
        self.clocks, self.pid = self.clocks + 1, os.getpid()
        if self.clocks == self.most:
            self.stop("enough is seen")


class Stays(Counts):
    stays = True


class Signals(ssp.Observer):
    """Has this process get so many signals at once when the first clocks are over."""

    stays = True

    def __init__(self, count, number=signal.SIGINT):
        self.count, self.number = count, number

    def on_clock(self, row):
        while self.count:
            self.count -= 1
            signal.raise_signal(self.number)


def test_it_comes_to_the_bits_of_one_process_and_observers_come_back(tmp_path):
    spec = linear(num_clocks=8, policy=ssp.BSP())
    here = ssp.train(runtime=ssp.Virtual(2), **spec)
    ema, travels, stays = ssp.Ema(0.9), Counts(), Stays()
    with ssp.RunFolder(tmp_path / "run", {"why": "to see"}) as folder:
        observers = [ema, travels, stays, folder]
        result = ssp.train(runtime=there(server_shards=2), observers=observers, **spec)
    assert bits(result.params) == bits(here.params)
    ssp.check_contract(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    assert bits(ema.params) == bits(result.kept["ema"].params)
    assert travels.clocks == stays.clocks == 16
    assert stays.pid == os.getpid() != travels.pid
    run = ssp.read_run(tmp_path / "run")
    assert (run.status, run.config["why"], len(run.schedule)) == ("done", "to see", 16)
    assert folder.began
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("kind", [Counts, Stays])
def test_an_observer_ends_it_from_wherever_it_is(kind):
    result = ssp.train(
        runtime=there(delay=SLOWLY), observers=[kind(6)], **linear(num_clocks=10_000)
    )
    assert (result.status, result.reason) == ("early", "enough is seen")
    ssp.check_contract(result.tape)


class Breaks(ssp.Observer):
    def on_clock(self, row):
        if row["updates"] >= 3:
            raise OSError("no room on the disk")


class BreaksHere(Breaks):
    stays = True


@pytest.mark.parametrize("kind", [Breaks, BreaksHere])
def test_an_error_comes_as_what_it_is_with_the_result(kind):
    with pytest.raises(OSError, match="no room on the disk") as caught:
        ssp.train(runtime=there(delay=SLOWLY), observers=[kind()], **linear(num_clocks=10_000))
    assert caught.value.result.updates >= 3
    assert any(f"in {kind.__name__}.on_clock" in each for each in caught.value.__notes__)


def test_what_cannot_travel_is_named_before_anything_starts():
    class Holds(ssp.Observer):
        def __init__(self):
            self.lock = threading.Lock()

    class Reads(ssp.Observer):
        stays = True

        def on_version(self, version):
            pass

    spec = linear(num_clocks=1)
    with pytest.raises(TypeError, match=r"`Holds`.*cannot be sent.*lock.*stays = True"):
        ssp.train(runtime=there(), observers=[Holds()], **spec)
    with pytest.raises(ValueError, match=r"`Reads` stays.*`on_version`.*travel"):
        ssp.train(runtime=there(), observers=[Reads()], **spec)
    with pytest.raises(ValueError, match="num_clocks"):
        ssp.train(runtime=there(), **linear())
    with pytest.raises(ValueError, match=r"`placement='devices'`.*server_shards"):
        ssp.train(runtime=there(), placement="devices", **spec)


def test_one_interrupt_ends_it_with_its_result_and_a_second_one_raises():
    spec = linear(num_clocks=10_000)
    result = ssp.train(runtime=there(delay=SLOWLY), observers=[Signals(1)], **spec)
    assert result.status == "interrupted"
    ssp.check_contract(result.tape)
    with pytest.raises(KeyboardInterrupt) as caught:
        ssp.train(runtime=there(delay=SLOWLY), observers=[Signals(2)], **spec)
    assert caught.value.result.updates > 0


def test_sigterm_saves_it_and_asks_to_be_run_again(tmp_path):
    spec = linear(step=MOMENTUM, num_clocks=20, policy=ssp.BSP())
    spec["checkpoint"] = ssp.Checkpoints(tmp_path / "run", every=10_000)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        observers = [Signals(1, signal.SIGTERM)]
        with pytest.raises(SystemExit) as caught:
            ssp.train(runtime=there(delay=SLOWLY), observers=observers, **spec)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 75
    assert 0 < caught.value.result.updates < 40
    result = ssp.train(runtime=ssp.Ray(2), resume="must", **spec)  # either goes on with a run
    del spec["checkpoint"]
    here = ssp.train(runtime=ssp.Virtual(2), **spec)
    assert bits(result.params) == bits(here.params)


class Killed(ssp.Observer):
    """Kills the process that it is in, once at each of these versions."""

    def __init__(self, folder, versions):
        self.folder, self.versions = folder, versions

    def on_version(self, version):
        with contextlib.suppress(FileExistsError):
            if version.version in self.versions:
                (self.folder / str(version.version)).touch(exist_ok=False)
                numbers = os.getppid(), *actors(os.getppid())
                (self.folder / f"{version.version}.there").write_text(" ".join(map(str, numbers)))
                os.kill(os.getpid(), signal.SIGKILL)


def actors(raylet):
    """The actors' processes that this one of Ray's has started."""
    found = set()
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            name = (each / "cmdline").read_bytes()
            if parent == raylet and name.startswith((b"ray::There", b"ray::Shard", b"ray::Head")):
                found.add(int(each.name))
    return found


def test_without_checkpoints_its_death_is_the_end_and_says_what_helps(tmp_path):
    killed = Killed(tmp_path, {5})
    with pytest.raises(LostController, match=r"the controller is no more.*`checkpoint=") as caught:
        ssp.train(runtime=there(), observers=[killed], **linear(num_clocks=50))
    assert caught.value.exit_code == 75


@pytest.mark.slow
def test_it_is_killed_twice_and_the_run_goes_on_by_itself(tmp_path):
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    data = ssp.data.Epochs((x, x @ np.arange(6, dtype=np.float32)), batch_size=4)
    spec = linear(step=MOMENTUM, data=data, policy=ssp.SSP(2), num_epochs=6)
    killed, seen, recovery = Killed(tmp_path, {25, 60}), Stays(), ssp.Recovery(backoff=0.01)
    result = ssp.train(
        runtime=there(server_shards=2, delay=SLOWLY, recovery=recovery),
        observers=[killed, seen],
        checkpoint=ssp.Checkpoints(tmp_path / "run", every=4),
        resume="never",  # which is of the first start
        **spec,
    )
    assert result.status == "done"
    assert result.resumes == 2
    ssp.check_contract(result.tape)
    assert result.samples == 6 * 64
    assert result.data.twice == 0
    assert not left_out(result.tape)
    again = ssp.train(runtime=ssp.Replay(result.tape), **spec)
    assert bits(again.params) == bits(result.params)
    terms = [event for _, event, _ in result.tape if type(event) is Resumed]
    assert len(terms) == 2
    run = ssp.read_run(tmp_path / "run")
    assert run.status == "done"
    others = {each.get("pid") for each in itertools.chain(*pool._resting.values())}
    for each in tmp_path.glob("*.there"):  # who was there with it has ended too
        raylet, *lost = map(int, each.read_text().split())
        assert len({*lost} - others) >= 1 + 2 + 2
        assert not ({*lost} - others) & actors(raylet)


@pytest.mark.slow
def test_what_dies_again_and_again_is_given_up(tmp_path):
    killed = Killed(tmp_path, {5, 6, 7, 8, 9})
    runtime = there(recovery=ssp.Recovery(restarts=1, backoff=0.01), delay=SLOWLY)
    with pytest.raises(LostController, match=r"1 times at most.*newest checkpoint") as caught:
        ssp.train(
            runtime=runtime,
            observers=[killed],
            checkpoint=ssp.Checkpoints(tmp_path / "run", every=1),
            **linear(num_clocks=50),
        )
    assert caught.value.exit_code == 75
