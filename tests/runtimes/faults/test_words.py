"""Faults in words: what is said is what is read, and what is wrong with a word is named."""

import pytest

import jax_ssp as ssp
from jax_ssp import faults
from jax_ssp.runtimes.faults.known import KINDS

SAID = {
    "crash:2:5": faults.Crash(2, 5),
    "crash:2:5:back_after=3.0": faults.Crash(2, 5, back_after=3.0),
    "crash:2:phase=join": faults.Crash(2, phase="join"),
    "crash:2:5:phase=push,nth=2": faults.Crash(2, 5, phase="push", nth=2),
    "crash:1:at=30.0": faults.Crash(1, at=30.0),
    "hang:0:3": faults.Hang(0, 3),
    "slow:1:2:seconds=0.5": faults.Slow(1, 2, seconds=0.5),
    "nan:1:3": faults.NaN(1, 3),
    "out_of_memory:1:4:size=1024": faults.OutOfMemory(1, 4, size=1024),
    "duplicate:1:2:after=0.5": faults.Duplicate(1, 2, after=0.5),
    "late:1:2:seconds=3.0,back_after=1.0": faults.Late(1, 2, seconds=3.0, back_after=1.0),
    "lost_push:0:3": faults.LostPush(0, 3),
    "save_fails:nth=2": faults.SaveFails(nth=2),
    "disk_full:nth=2,times=5": faults.DiskFull(nth=2, times=5),
    "hold_lock:at=3.0": faults.HoldLock(at=3.0),
    "stopped:1:2:seconds=0.1": faults.Stopped(1, 2, seconds=0.1),
    "kill:phase=save,nth=2,life=1": faults.Kill(phase="save", nth=2, life=1),
    "terminate:phase=merge": faults.Terminate(phase="merge"),
    "poisson:mtbf=30.0,kinds=crash+slow": faults.Poisson(30.0, ("crash", "slow")),
    "poisson:mtbf=9.0,kinds=nan,per=clocks,seed=4": faults.Poisson(9.0, ["nan"], "clocks", 4),
}


@pytest.mark.parametrize("word", SAID)
def test_a_word_says_a_fault_and_a_fault_says_the_word(word):
    assert faults.from_words([word]) == (SAID[word],)
    assert faults.in_words([SAID[word]]) == [word]


def test_an_error_is_named_by_its_class():
    (fault,) = faults.from_words(["raise:0:1:error=OSError"])
    assert isinstance(fault.error, OSError)
    assert faults.in_words([fault]) == ["raise:0:1:error=OSError"]
    assert faults.in_words([faults.Raise(0, 1)]) == ["raise:0:1:error=RuntimeError"]


def test_a_name_may_be_written_as_its_class_or_with_hyphens():
    same = faults.from_words(["LostPush:1:2", "lost-push:1:2", "lost_push:1:2"])
    assert set(same) == {faults.LostPush(1, 2)}


def test_every_public_kind_has_a_word():
    kinds = {getattr(faults, name) for name in faults.__all__}
    made = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, faults.Fault)}
    assert made - {faults.Fault, faults.Act} == set(KINDS.values())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("crsh:1:2", r"there is no fault 'crsh' \(did you mean crash\?\)\. There are crash, hang"),
        ("crash", r'`Crash\(worker=...\)`: it is missing; phase "step" needs it'),
        ("crash:1", r"`Crash\(clock=...\)`: it is missing"),
        ("crash:1:x", "clock` must be an integer, got 'x'"),
        ("crash:1:2:3:4", "'4' stands for nothing. A fault is a kind, a worker and a clock"),
        ("crash:1:2:foo=3", "has no 'foo'; it takes worker, clock, phase"),
        ("crash:1:2:back_after=3,nth", "nth has no value"),
        ("slow:1:2:seconds=-1", r"`Slow\(seconds=...\)` must be non-negative"),
        ("raise:1:2:error=open", "must be an exception of Python such as OSError, got 'open'"),
        ("poisson", "needs mtbf"),
        ("poisson:mtbf=3,kinds=kil", r"no fault 'kil' \(did you mean kill\?\)"),
    ],
)
def test_what_a_word_lacks_is_named(word, message):
    with pytest.raises(ValueError, match=message):
        faults.from_words([word])


def test_a_description_names_every_fault():
    runtime = ssp.Virtual(2, faults=[faults.Crash(1, 2), faults.Poisson(30.0)])
    told = ssp.Experiment(runtime=runtime, num_clocks=3).describe()["runtime"]["faults"]
    assert [(each["type"], each.get("clock")) for each in told] == [("Crash", 2), ("Poisson", None)]
