"""Files that are left whole: written in one step, or line by line, and by one run at a time.

A disk fills up, a quota ends, a process is killed: what a reader then finds is what was there
before, or a file that ends after a whole piece. Nothing here buffers, so an error comes where the
writing is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import socket
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None


class FolderInUse(ValueError):
    """Another process writes into the folder."""


def say(text: str) -> None:
    """Print a line to standard error, if that can be done: nobody's reading is worth a run."""
    with contextlib.suppress(Exception):
        print(text, file=sys.stderr, flush=True)


def digest_of(content: bytes) -> str:
    """The SHA-256 of a file, as `config.json` of a run's folder holds it."""
    return hashlib.sha256(content).hexdigest()


def replace_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a whole file in one step: a reader finds the one before, or this one.

    Args:
        path: of the file; one that is there is replaced.
        content: text is written as UTF-8.

    Raises:
        OSError: if it cannot be written; what was there before is there still.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     replace_file(Path(folder, "note"), "kept")
        ...     (os.listdir(folder), Path(folder, "note").read_text())
        (['note'], 'kept')
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = content.encode() if isinstance(content, str) else content
    try:
        with open(temporary, "wb", buffering=0) as file:
            _write_all(file.fileno(), content)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        _name(error, path)
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any], indent: int = 2) -> None:
    """Write strict JSON in one step: what is not finite becomes null."""
    replace_file(path, json.dumps(_strict(content), indent=indent, allow_nan=False) + "\n")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _strict(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def whole_lines(path: Path) -> int:
    """The length of a file up to the end of its last whole line (bytes); 0 if there is none."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


class AppendedFile:
    """A file that grows by whole pieces; one that does not fit is taken back.

    Args:
        path: of the file, which is made if need be.
        size: what of it is kept (bytes); by default nothing.

    Attributes:
        mark: what the caller says of the file as it is, set together with each piece.
    """

    def __init__(self, path: str | os.PathLike[str], size: int = 0) -> None:
        self.path = Path(path)
        self._fd: int | None = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._kept: tuple[int, Any] = (size, None)
        os.ftruncate(self._fd, size)
        self._closing = weakref.finalize(self, os.close, self._fd)

    @property
    def mark(self) -> Any:
        return self._kept[1]

    @mark.setter
    def mark(self, mark: Any) -> None:
        self._kept = (self._kept[0], mark)

    @property
    def closed(self) -> bool:
        return self._fd is None

    def append(self, content: bytes, mark: Any = None) -> None:
        """Add a piece.

        Raises:
            OSError: if not all of it can be written; the file is then as it was, and the same
                piece may be tried again. Also if somebody has cut the file meanwhile.
        """
        assert self._fd is not None, "the file is open"
        size = self._kept[0]
        if os.fstat(self._fd).st_size < size:  # which would be filled with zeros
            raise OSError(errno.EIO, "somebody has cut it while it was written", str(self.path))
        os.ftruncate(self._fd, size)  # of what an interrupt has cut short
        try:
            _write_all(self._fd, content)
            self._kept = (size + len(content), mark)
        except BaseException as error:
            _name(error, self.path)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._kept[0])
            raise

    @property
    def gone(self) -> bool:
        """Whether the file is no longer where it was made: moved, deleted or replaced."""
        if self._fd is None:
            return not self.path.exists()
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            return True

    def sync(self) -> None:
        """Wait until what is in it is on the disk.

        Raises:
            OSError: if the disk does not take it after all.
        """
        if self._fd is not None:
            os.fsync(self._fd)

    def close(self) -> None:
        """Close it, once what is in it is on the disk; nothing happens the second time.

        Raises:
            OSError: if the disk does not take it after all.
        """
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            os.fsync(fd)
        finally:
            self._closing()


class FolderLock:
    """A folder that is one process's alone, for as long as this object is not released.

    The lock is the kernel's (`flock` on `.lock` in the folder), so it ends with the process,
    however that ends. Where there are no such locks, as on some network disks, `held` is False.

    Args:
        folder: it is there.

    Raises:
        FolderInUse: if another process has it; the message says which.
        OSError: if the folder cannot be written into.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = FolderLock(folder)
        ...     try:
        ...         FolderLock(folder)
        ...     except FolderInUse as error:
        ...         print("in use by process" in str(error))
        ...     lock.release()
        ...     os.listdir(folder)
        True
        []
    """

    NAME = ".lock"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._path = Path(folder) / self.NAME
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self.held = _locked(fd)
                if not self.held or os.path.samestat(os.stat(self._path), os.fstat(fd)):
                    break
            except BlockingIOError:
                owner = os.pread(fd, 200, 0).decode(errors="replace").strip()
                os.close(fd)
                who = f"process {owner}" if owner else "another process"
                raise FolderInUse(f"{folder} is in use by {who}.") from None
            except FileNotFoundError:  # it was released, and deleted, just now
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        with contextlib.suppress(OSError):  # who it is, is for people only
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
        self._release = weakref.finalize(self, _released, fd, self._path, os.getpid())
        _locks.add(self)

    def release(self) -> None:
        """Let others have the folder; nothing happens the second time."""
        self._release()


_locks: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _locked(fd: int) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _released(fd: int, path: Path, owner: int) -> None:
    with contextlib.suppress(OSError):
        if os.getpid() == owner and os.path.samestat(os.stat(path), os.fstat(fd)):
            path.unlink()  # while it is locked: nobody else has this file
    os.close(fd)


def _leave_to_parent() -> None:
    """A child, such as one that loads data, may live longer than the run: it has no lock."""
    for lock in list(_locks):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _name(error: BaseException, path: Path) -> None:
    """Have an error of writing say which file it was; the system knows only its number."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        error.filename = str(path)


def _write_all(fd: int, content: Any) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
