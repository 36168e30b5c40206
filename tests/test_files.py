"""Files stay whole though a disk is full, a folder goes away, or two want the same one."""

import errno
import os
import subprocess
import sys

import pytest

from jax_ssp.files import AppendedFile, FolderInUse, FolderLock, replace_file


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk(room)`: from now on only so many bytes can be written; None is no limit."""
    write, left = os.write, [None]

    def limited(fd, content):
        if left[0] is None:
            return write(fd, content)
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, bytes(content)[: left[0]])  # as a disk does, up to the last byte
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", limited)
    return lambda room: left.__setitem__(0, room)


def test_a_piece_that_does_not_fit_is_taken_back_and_may_be_tried_again(tmp_path, full_disk):
    file = AppendedFile(tmp_path / "file")
    file.append(b"one\n", mark=1)
    full_disk(2)
    with pytest.raises(OSError, match=r"No space left.*/file"):  # it says which file
        file.append(b"two\n", mark=2)
    with pytest.raises(OSError, match=r"No space left.*/whole"):
        replace_file(tmp_path / "whole", b"two\n")
    assert (tmp_path / "file").read_bytes() == b"one\n"
    assert file.mark == 1
    full_disk(None)
    file.append(b"two\n", mark=2)
    file.close()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\n"


def test_an_interrupt_in_the_middle_of_a_piece_leaves_none_of_it(tmp_path, monkeypatch):
    file = AppendedFile(tmp_path / "file")
    file.append(b"one\n", mark=1)
    write = os.write

    def interrupted(fd, content):
        write(fd, bytes(content)[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            file.append(b"two\n", mark=2)
    assert (tmp_path / "file").read_bytes() == b"one\n"
    file.append(b"three\n", mark=2)
    assert (tmp_path / "file").read_bytes() == b"one\nthree\n"


def test_a_file_that_was_moved_deleted_or_replaced_is_gone(tmp_path):
    file = AppendedFile(tmp_path / "file")
    assert not file.gone
    (tmp_path / "file").rename(tmp_path / "elsewhere")
    assert file.gone
    (tmp_path / "file").touch()
    assert file.gone
    (tmp_path / "elsewhere").replace(tmp_path / "file")
    assert not file.gone
    file.close()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, full_disk):
    replace_file(tmp_path / "file", "before")
    full_disk(3)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "file", "after")
    full_disk(None)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "before"
    replace_file(tmp_path / "file", "after")
    assert (tmp_path / "file").read_text() == "after"


def test_a_locked_folder_is_refused_by_the_name_of_its_process_and_free_after_its_death(tmp_path):
    program = (
        "import sys; from jax_ssp.files import FolderLock; lock = FolderLock(sys.argv[1]); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, text=True, **pipes) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(FolderInUse, match=f"is in use by process {process.pid} on "):
            FolderLock(tmp_path)
        process.kill()
    lock = FolderLock(tmp_path)  # though the file is there still
    lock.release()
    lock.release()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_nobody_holds_any_more_is_released(tmp_path):
    lock = FolderLock(tmp_path)
    del lock
    FolderLock(tmp_path).release()


def test_a_childs_end_does_not_end_its_parents_lock_nor_its_life_prolong_it(tmp_path):
    program = """
import os, sys
from jax_ssp.files import FolderInUse, FolderLock
lock = FolderLock(sys.argv[1])
reader, writer = os.pipe()
child = os.fork()
if not child:
    os.read(reader, 1)  # until its parent is done
    os._exit(0)
try:
    FolderLock(sys.argv[1])
except FolderInUse:
    lock.release()
    FolderLock(sys.argv[1]).release()  # though the child lives
    print("right")
os.write(writer, b".")
os.waitpid(child, 0)
"""
    words = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.stdout == "right\n", done.stderr


def test_a_child_that_outlives_its_killed_parent_holds_no_lock(tmp_path):
    program = """
import os, signal, sys
from jax_ssp.files import FolderLock
lock = FolderLock(sys.argv[1])
reader, writer = os.pipe()
if not os.fork():
    os.write(writer, b".")
    os.read(0, 1)  # until the test is done
    os._exit(0)
os.read(reader, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    words = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        process.wait(timeout=300)
        assert os.listdir(tmp_path) == [FolderLock.NAME]
        FolderLock(tmp_path).release()


def test_where_there_are_no_locks_the_folder_can_be_used(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("jax_ssp.files.fcntl.flock", refuse)
    lock = FolderLock(tmp_path)
    assert not lock.held
    lock.release()
