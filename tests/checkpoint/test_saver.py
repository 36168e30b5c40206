"""Cuts are saved beside the run: the newest matters, failures are said and tried again."""

import errno
import gc
import threading
import weakref

import numpy as np
import pytest

from jax_ssp.checkpoint.saver import LONGEST_WAIT, Saver
from jax_ssp.checkpoint.steps import Steps

PATIENCE = 60.0  # seconds, for what comes at once


class Disk:
    """Steps of which each save waits for leave, and fails if it is told to."""

    def __init__(self):
        self.log = []
        self.failures = []  # an error, or None, for each save to come
        self.begun = threading.Semaphore(0)
        self.leave = threading.Semaphore(0)

    def save(self, rows, facts, arrays, metric, version):
        self.log.append(rows)
        self.begun.release()
        assert self.leave.acquire(timeout=PATIENCE)
        error = self.failures.pop(0) if self.failures else None
        if error is not None:
            raise error


def make(wait=0.0, durable=lambda rows: None, leave=0):
    disk = Disk()
    for _ in range(leave):
        disk.leave.release()
    return disk, Saver(disk, durable, wait)


def save(saver, rows):
    saver.save(rows, {"rows": rows}, {"w": np.zeros(rows, np.float32)}, None)


def begun(disk):
    assert disk.begun.acquire(timeout=PATIENCE)


def full():
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_cut_is_on_the_disk_after_the_tape_is(tmp_path):
    steps = Steps(tmp_path / "checkpoints", keep=1)
    seen = []
    saver = Saver(steps, lambda rows: seen.append((rows, steps.newest())))
    saver.save(3, {"a": 1}, {"w": np.ones(3, np.float32)}, 0.5)
    assert saver.close(PATIENCE)
    assert seen == [(3, None)]
    assert steps.newest().metric == 0.5
    assert steps.load(steps.newest())[0] == {"a": 1}
    counts = saver.counts
    assert (saver.rows, counts.saved, counts.failed, counts.bytes) == (3, 1, 0, 12)
    assert counts.cpu_seconds > 0
    assert counts.seconds > 0


def test_the_newest_takes_the_place_of_one_that_waits():
    disk, saver = make()
    save(saver, 1)
    begun(disk)
    for rows in (2, 3, 4):
        save(saver, rows)
    for _ in range(2):
        disk.leave.release()
    assert saver.close(PATIENCE)
    assert disk.log == [1, 4]
    counts = saver.counts
    assert (counts.saved, counts.passed_over, saver.rows) == (2, 2, 4)


def test_a_save_that_fails_is_said_once_for_each_kind_and_tried_again(capsys):
    disk, saver = make(leave=10)
    disk.failures = [full(), full(), ValueError("odd"), full(), None]
    save(saver, 1)
    for _ in range(5):
        begun(disk)
    assert saver.close(PATIENCE)
    assert disk.log == [1] * 5
    assert (saver.counts.saved, saver.counts.failed, saver.rows) == (1, 4, 1)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("a checkpoint at row 1 cannot be saved: OSError: ")
    assert "No space left on device; the run goes on, and it is tried again" in said[0]
    assert "ValueError: odd" in said[1]


@pytest.fixture
def disk_and_saver():
    """A saver with a cut that has failed, and that waits for a long time."""
    disk, saver = make(wait=1e6, leave=1)
    disk.failures = [full()]
    save(saver, 1)
    begun(disk)
    with saver._changed:
        assert saver._changed.wait_for(lambda: saver._counts.failed == 1, PATIENCE)
        assert saver._changed.wait_for(lambda: not saver._under_way, PATIENCE)
    return disk, saver


def test_what_waits_to_be_tried_again_is_tried_by_a_flush(disk_and_saver):
    disk, saver = disk_and_saver
    disk.leave.release()
    assert saver.flush(PATIENCE)
    assert disk.log == [1, 1]
    assert saver.rows == 1
    assert saver.close(PATIENCE)


def test_a_newer_cut_is_tried_instead_and_at_once(disk_and_saver):
    disk, saver = disk_and_saver
    save(saver, 2)
    disk.leave.release()
    assert saver.close(PATIENCE)
    assert disk.log == [1, 2]
    assert saver.rows == 2
    assert saver.counts.passed_over == 1


def test_a_flush_tries_once_and_no_more(disk_and_saver):
    disk, saver = disk_and_saver
    disk.failures = [full(), full()]
    for _ in range(2):
        disk.leave.release()
    assert not saver.flush(PATIENCE)
    assert disk.log == [1, 1]
    assert not saver.close(PATIENCE)
    assert disk.log == [1, 1, 1]


def test_each_wait_is_longer_up_to_a_limit(disk_and_saver):
    disk, saver = disk_and_saver
    assert saver._wait == LONGEST_WAIT
    disk.leave.release()
    assert saver.flush(PATIENCE)
    assert saver._wait == 1e6
    assert saver.close(PATIENCE)


def test_a_flush_has_an_end():
    disk, saver = make()
    save(saver, 1)
    begun(disk)
    assert not saver.flush(0.0)
    save(saver, 2)
    assert not saver.close(0.0)
    disk.leave.release()
    saver._thread.join(PATIENCE)
    assert disk.log == [1]
    assert saver.rows == 1  # what was under way went on; what waited did not


def test_a_tape_that_cannot_be_written_is_a_failure_too(capsys):
    def durable(rows):
        raise full()

    disk, saver = make(wait=1e6, durable=durable)
    save(saver, 1)
    assert not saver.close(PATIENCE)
    assert disk.log == []
    assert saver.counts.failed >= 1
    assert "cannot be saved" in capsys.readouterr().err


def test_no_thread_to_be_had_is_a_failure_too(monkeypatch, capsys):
    disk, saver = make(leave=1)

    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        save(saver, 1)
    assert "can't start new thread" in capsys.readouterr().err
    assert saver.counts.failed == 1
    save(saver, 2)
    assert saver.close(PATIENCE)
    assert disk.log == [2]


def test_a_saver_that_was_given_nothing_has_no_thread():
    _, saver = make()
    assert saver.close(0.0)
    assert saver._thread is None


def test_one_that_fails_gives_way_to_one_that_waits():
    disk, saver = make()
    disk.failures = [full(), None]
    save(saver, 1)
    begun(disk)
    save(saver, 2)
    for _ in range(2):
        disk.leave.release()
    assert saver.close(PATIENCE)
    assert disk.log == [1, 2]
    assert saver.counts.passed_over == 1


def test_one_that_fails_after_the_end_is_not_tried_again():
    disk, saver = make(wait=1e6)
    disk.failures = [full()]
    save(saver, 1)
    begun(disk)
    assert not saver.close(0.0)
    disk.leave.release()
    saver._thread.join(PATIENCE)
    assert not saver._thread.is_alive()
    assert disk.log == [1]


@pytest.mark.parametrize("fails", [False, True])
def test_the_arrays_go_once_they_are_saved_or_passed_over(fails):
    disk, saver = make(wait=1e6, leave=9)
    disk.failures = [full()] * 2 if fails else []
    array = np.zeros(3)
    gone = weakref.ref(array)
    saver.save(1, {}, {"w": array})
    del array
    assert saver.flush(PATIENCE) or fails
    if fails:
        disk.failures = []
        saver.save(2, {}, {})
        assert saver.flush(PATIENCE)
        gc.collect()  # of the error, which holds where it was raised
    assert gone() is None
    assert saver.close(PATIENCE)
