"""Arrays in a folder, by name: written by Orbax, and read back as what they were, or not at all.

Orbax alone restores flipped bits silently and casts dtypes silently. So a `Leaf` is kept of each
array, its shape, dtype and crc32, and what comes back must be that. Without OCDBT every array has
files of its own, so a damaged file tells the leaf; without compression, since numbers of training
hardly compress. The handler is used bare, as what Orbax's Checkpointer adds is a commit of its own.

An array that is split over devices is written as it is, a file a piece. Orbax takes about a
millisecond and two files for an array, however small it is; so many small ones may be packed, as
their bytes, into one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jax_ssp.failures import in_words

PACKED = "packed"  # how Orbax calls the small ones
SMALL = 1 << 16  # bytes
_MORE = 1 << 18  # bytes, for what says of the arrays what they are
_NATIVE = "biufc"  # kinds of NumPy's own dtypes, which Orbax takes all
_ERRNO = re.compile(r"os_error_code='([0-9]+)'")


class Leaf(NamedTuple):
    """What an array is.

    Attributes:
        shape, dtype: of the whole array.
        crc32: of its bytes in row-major order; those of its pieces one after the other, if any.
        at: the byte where it begins among the packed ones; None if it has files of its own.
        pieces: of an array split over devices, where each begins and ends on each axis.
    """

    shape: tuple[int, ...]
    dtype: str
    crc32: int
    at: int | None = None
    pieces: tuple[tuple[tuple[int, int], ...], ...] | None = None

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Leaf:
        """Of its facts; what they raise if they are none, is any of the usual errors."""
        pieces = facts.get("pieces")
        if pieces is not None:
            pieces = tuple(tuple((int(a), int(b)) for a, b in piece) for piece in pieces)
        shape = tuple(int(axis) for axis in facts["shape"])
        dtype = np.dtype(facts["dtype"])
        if not _is_number(dtype):
            raise ValueError(f"{dtype} is no dtype of numbers")
        at = facts.get("at")
        return cls(shape, dtype.name, int(facts["crc32"]), None if at is None else int(at), pieces)

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def check(self, called: str, array: np.ndarray, folder: Path) -> None:
        """Raise ValueError unless the array is this."""
        found = {"shape": array.shape, "dtype": array.dtype.name}
        if all(found[what] == getattr(self, what) for what in found):
            found["crc32"] = _crc32([array[_slices(piece)] for piece in self.pieces or ((),)])
        for what, here in found.items():
            if here != getattr(self, what):
                raise ValueError(
                    f"`{folder}` is damaged: {called} has {what} {here}, but "
                    f"{getattr(self, what)} in its manifest."
                )


def on_host(field: str, called: str, leaf: Any) -> np.ndarray | jax.Array:
    """An array as it is written: a NumPy array, or as it is, if it is split over devices.

    Args:
        field: whose it is, for the message.
        called: which one it is.
        leaf: what was given.

    Raises:
        TypeError: if it is no array of numbers.
        ValueError: if parts of it are on devices of another process.
    """
    held = isinstance(leaf, np.ndarray | np.generic | jax.Array)
    dtype = leaf.dtype if held and not isinstance(leaf, jax.core.Tracer) else None
    if dtype is None or not _is_number(dtype):
        raise TypeError(
            f"`{field}` must hold arrays of numbers, got {type(leaf).__name__} at {called}; use "
            "jnp.asarray or jax.random.key_data."
        )
    if isinstance(leaf, jax.Array):
        if not leaf.is_fully_addressable:
            raise ValueError(
                f"`{field}` holds {called}, which is not all on this process's devices."
            )
        if leaf.nbytes > SMALL and _is_known(leaf.dtype) and len(_shards(leaf)) > 1:
            return leaf
    return np.asarray(leaf, dtype=dtype.newbyteorder("="))


def write_arrays(
    folder: Path, arrays: Mapping[str, np.ndarray | jax.Array], *, pack: bool
) -> dict[str, Leaf]:
    """Write arrays into a new folder.

    Args:
        folder: is made.
        arrays: as `on_host` gives them.
        pack: whether small ones are packed. Without, those without elements are not written.

    Returns:
        What each of them is; they are to be given to `read_arrays`.

    Raises:
        OSError: if the disk does not take them.
    """
    stored: dict[str, Any] = {}
    packed: list[np.ndarray] = []
    leaves: dict[str, Leaf] = {}
    end = 0
    for index, (name, array) in enumerate(arrays.items()):
        leaf = _leaf(array)
        if pack and isinstance(array, np.ndarray) and _may_be_packed(array):
            packed.append(_bytes(array))
            leaf = leaf._replace(at=end)
            end += array.nbytes
        elif array.size:
            stored[str(index)] = array
        leaves[name] = leaf
    if end:
        stored[PACKED] = np.concatenate(packed)
    folder.mkdir()
    _check_room(folder, sum(int(array.nbytes) for array in stored.values()))
    if stored:
        with _failing_as_the_system_does(folder), closing(_handler()) as handler:
            handler.save(epath.Path(folder), args=ocp.args.PyTreeSave(stored))
    return leaves


def read_arrays(
    folder: Path, leaves: Mapping[str, Leaf], called: Callable[[str], str] = repr
) -> dict[str, np.ndarray]:
    """The arrays in a folder, each of them what it was; their memory is their own.

    Args:
        folder: its files are those that were written, as far as that is known.
        leaves: what `write_arrays` gave.
        called: what a message says for an array's name.

    Raises:
        ValueError: if one is not what it was, naming it.
    """
    stored = _restored(folder, leaves)
    packed = stored.get(PACKED, np.zeros(0, np.uint8))
    arrays: dict[str, np.ndarray] = {}
    for index, (name, leaf) in enumerate(leaves.items()):
        if leaf.at is not None and 0 <= leaf.at <= packed.nbytes - leaf.size:
            content = packed[leaf.at : leaf.at + leaf.size].copy()
            array = content.view(leaf.dtype).reshape(leaf.shape)
        elif leaf.at is None and 0 in leaf.shape:
            array = np.zeros(leaf.shape, leaf.dtype)
        else:
            array = stored.get(str(index))
        if array is None:
            raise ValueError(f"`{folder}` is damaged: {called(name)} is missing.")
        leaf.check(called(name), array, folder)
        arrays[name] = array
    return arrays


def _restored(folder: Path, leaves: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    """What Orbax has written, by how it calls it."""
    numbered = enumerate(leaves.values())
    names = [str(index) for index, leaf in numbered if leaf.at is None and 0 not in leaf.shape]
    if any(leaf.at is not None and leaf.size for leaf in leaves.values()):
        names.append(PACKED)
    if not names:
        return {}
    kinds = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    try:
        with closing(_handler()) as handler:
            how = ocp.args.PyTreeRestore(restore_args=kinds)
            return handler.restore(epath.Path(folder), args=how)
    except Exception as error:  # its files are what was written, so it is not they
        raise ValueError(f"`{folder}` cannot be read: {in_words(error)}") from error


def _handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False)


def _is_number(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, np.number)) or dtype == np.bool_


def _is_known(dtype: Any) -> bool:
    """Whether every version of Orbax takes it; the small floats and integers are not."""
    return dtype.kind in _NATIVE or dtype == jnp.bfloat16


def _may_be_packed(array: np.ndarray) -> bool:
    return array.nbytes <= SMALL or not _is_known(array.dtype)


def _shards(array: jax.Array) -> list[Any]:
    """The pieces that an array is split into, each once, in the order of where they lie."""
    once = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    return sorted(once, key=lambda shard: _place(shard, array.shape))


def _place(shard: Any, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    ends = zip(shard.index, shape, strict=True)
    return tuple((axis.start or 0, size if axis.stop is None else axis.stop) for axis, size in ends)


def _slices(piece: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in piece)


def _leaf(array: np.ndarray | jax.Array) -> Leaf:
    if isinstance(array, np.ndarray):
        return Leaf(array.shape, array.dtype.name, _crc32([array]))
    shards = _shards(array)
    pieces = tuple(_place(shard, array.shape) for shard in shards)
    crc32 = _crc32([np.asarray(shard.data) for shard in shards])
    return Leaf(array.shape, np.dtype(array.dtype).name, crc32, pieces=pieces)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, order="C").reshape(-1).view(np.uint8)


def _crc32(arrays: list[np.ndarray]) -> int:
    crc32 = 0
    for array in arrays:
        crc32 = zlib.crc32(_bytes(array).data, crc32)
    return crc32


def _check_room(folder: Path, size: int) -> None:
    """Raise OSError if the disk has no room for so many bytes.

    Orbax writes several files at once, and goes on with some of them after another one has failed.
    So a full disk is better seen before; it is not filled to the last byte either.
    """
    disk = shutil.disk_usage(folder)
    needed = size + _MORE
    if disk.total and disk.free < needed:  # some disks cannot say
        why = f"{os.strerror(errno.ENOSPC)}: {needed:,} bytes are needed, {disk.free:,} are free"
        raise OSError(errno.ENOSPC, why, str(folder))


@contextlib.contextmanager
def _failing_as_the_system_does(folder: Path) -> Iterator[None]:
    """Have a full disk be the OSError that it is, and no pages of it in the log.

    Orbax raises what its threads raise, and logs it with all of its tracebacks too, twice.
    """
    log = logging.getLogger("absl")
    log.addFilter(_is_not_of_a_thread)
    try:
        yield
    except Exception as error:
        number = _ERRNO.search(str(error))
        if number is None or isinstance(error, OSError):
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(folder)) from error
    finally:
        log.removeFilter(_is_not_of_a_thread)


def _is_not_of_a_thread(record: logging.LogRecord) -> bool:
    return "_SignalingThread" not in record.getMessage()
