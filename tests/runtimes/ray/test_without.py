"""What is to be had, and said, where Ray is not installed or has not started."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import jax_ssp as ssp
from jax_ssp.runtimes.observing import Observers
from jax_ssp.runtimes.ray import cluster, hearing, pool
from jax_ssp.runtimes.ray.carried import Waits
from jax_ssp.runtimes.ray.driver import Process, end_with
from jax_ssp.runtimes.ray.head import Relay
from jax_ssp.runtimes.ray.sums import BLOCK, LARGE, checksum
from jax_ssp.runtimes.watch import Watch
from jax_ssp.worker.waits import Waiting
from tests.helpers.problems import linear


def test_without_ray_the_error_names_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    runtime = ssp.Ray(num_workers=4, server_shards=2)
    with pytest.raises(ImportError, match=r"pip install 'jax_ssp\[ray\]'"):
        ssp.train(runtime=runtime, **linear(num_clocks=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_workers", 0),
        ("server_shards", 0),
        ("spares", -1),
        ("controller", "elsewhere"),
        ("cpus_per_worker", -1.0),
        ("gpus_per_worker", float("nan")),
        ("address", ""),
        ("recovery", 3),
        ("working_dir", "not/there"),
        ("resources", 7),
        ("resources", [("TPU", 4)]),
        ("resources", {"TPU": -1}),
        ("resources", {"TPU": "4"}),
        ("resources", {3: 1}),
        ("resources", {"GPU": 1}),
    ],
)
def test_what_it_cannot_be_is_said_by_name(field, value):
    with pytest.raises((TypeError, ValueError), match=field):
        ssp.Ray(**{field: value})


def test_an_observer_that_stays_is_told_of_no_parameters_elsewhere():
    class Reads(ssp.Observer):
        stays = True

        def on_evaluated(self, version, row):
            pass

    with pytest.raises(ValueError, match=r"`Reads` stays.*`on_evaluated` cannot be had.*travel"):
        Waits([ssp.Observer(), Reads()])


def test_what_is_to_be_told_elsewhere_is_written_down_in_order():
    relay = Relay(frozenset({"on_clock"}), evaluates=False)
    told = Observers([relay])
    told.start({"name": "mine", "tape": object()})
    told.tell("on_entry", 0.0, None, [])
    told.tell("on_clock", {"clock": 3, "metrics": {}})
    told.end("done")
    assert relay.heard() == [
        ("on_start", ({"name": "mine"},)),
        ("on_clock", ({"clock": 3, "metrics": {}},)),
        ("on_end", ("done",)),
    ]
    assert relay.heard() == []


def test_what_stays_hears_of_waiting_and_of_the_end_however_the_run_is_left():
    class Hears(ssp.Observer):
        stays = True

        def __init__(self):
            self.ended = []

        def on_wait(self, waits):
            pass

        def on_end(self, status):
            self.ended.append(status)

    relay = Relay(frozenset({"on_wait"}), evaluates=False)
    Watch(list, [relay]).say([Waiting(2, "hangs", 9.0, 8.0)])
    assert relay.heard() == [("on_wait", ([Waiting(2, "hangs", 9.0, 8.0)],))]
    hears = Hears()
    waits = Waits([hears])
    waits.broken_off("failed")  # before it had begun
    waits._tell([("on_start", ({},))], None)
    waits.broken_off("interrupted")
    waits.broken_off("failed")
    assert hears.ended == ["interrupted"]


def test_a_controller_that_does_not_answer_is_named_now_and_then(monkeypatch, capsys):
    class Stopped:
        what, answers = "the controller", set()

        def call(self, method, beside):
            return method

        def is_there(self, method, seconds=0.0):
            return method in self.answers

    head, now = Stopped(), [0.0]
    monkeypatch.setattr(hearing, "is_there", head.is_there)
    monkeypatch.setattr(hearing, "got", lambda method, what: 4321 if method == "pid" else ["row"])
    monkeypatch.setattr(hearing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    hears = hearing.Hearing(head)
    for now[0] in range(100):
        if now[0] == 40:
            head.answers = {"pid"}
        assert hears.heard() == ()
    first, second = capsys.readouterr().err.splitlines()
    assert "the controller is not there yet, after 30 s" in first
    assert "the controller (process 4321) has not answered for 60 s" in second
    head.answers = {"pid", "heard"}
    assert hears.heard() == ["row"]
    assert hears.rest() == ()
    head.answers = {"pid"}
    for now[0] in range(100, 131):
        assert hears.heard() == ()
    assert "has not answered for 30 s" in capsys.readouterr().err
    assert hears.rest() == ["row"]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system does not say it")
def test_a_controller_ends_with_its_driver_and_with_no_other():
    code = (
        "import sys, time; from jax_ssp.runtimes.ray.driver import Process, end_with\n"
        "print(end_with(Process(int(sys.argv[1]), sys.argv[2])), flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen(["sleep", "60"])
    known = Process.of(driver.pid)
    assert known is not None
    assert not end_with(known._replace(began="7"))
    pipe = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, *map(str, known)], **pipe) as controller:
        assert controller.stdout.readline() == "True\n"
        driver.kill()
        driver.wait()
        assert controller.wait(30) == 1
    assert not end_with(known)
    assert Process.of(known.pid) != known


def test_a_checksum_tells_of_a_bit_a_place_and_a_size():
    rng = np.random.default_rng(0)
    for size in (0, 1, 7, 8, 9, 31, 1000):
        tree = [rng.integers(0, 256, size).astype(np.uint8), np.float32(3)]
        whole = checksum(tree)
        assert checksum([each.copy() for each in tree]) == whole
        assert checksum([np.append(tree[0], np.uint8(0)), tree[1]]) != whole
        for at in range(0, size, 97):
            other = tree[0].copy()
            other[at] ^= 1 << at % 8
            assert checksum([other, tree[1]]) != whole
    here = np.arange(16, dtype=np.uint64)
    assert checksum([here]) != checksum([here[::-1]])
    assert checksum([here[:8], here[8:]]) != checksum([here[8:], here[:8]])


def test_a_checksum_is_the_same_however_many_threads_take_it(monkeypatch):
    large = np.random.default_rng(0).integers(0, 256, 8 * BLOCK * (LARGE + 3) + 13).astype(np.uint8)
    of_several = checksum(large)
    monkeypatch.setattr("jax_ssp.runtimes.ray.sums.LARGE", 2 * LARGE)
    assert checksum(large) == of_several
    large[-BLOCK] ^= 1
    assert checksum(large) != of_several


def test_what_rests_on_a_cluster_is_forgotten_with_it(monkeypatch):
    """Whoever has ended one and joined another; the processes of the first are no more."""
    at = ["one", "job", "node"]
    context = SimpleNamespace(
        gcs_address=at[0], get_job_id=lambda: at[1], get_node_id=lambda: at[2]
    )
    stub = SimpleNamespace(
        is_initialized=lambda: True,
        get_runtime_context=lambda: context,
        cluster_resources=lambda: {"CPU": 1.0},
    )
    monkeypatch.setattr(cluster, "the_ray", lambda: stub)
    monkeypatch.setattr(cluster, "_joined", [None, None])
    resting = {"kind": ["process"]}
    monkeypatch.setattr(pool, "_resting", resting)
    for number in range(3):
        at[number] += " more"
        context.gcs_address = at[0]
        resting["kind"] = ["process"]
        cluster.connect(None)
        assert not resting
        resting["kind"] = ["process"]
        assert cluster.connect(None) == {"CPU": 1.0}
        assert resting
    with pytest.raises(ValueError, match="on a cluster already"):
        cluster.connect(None, working_dir="/")
