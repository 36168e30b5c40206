"""Reads the batches of CIFAR-10's python version, which are pickles, without unpickling anything.

A pickle is a program for a small stack machine, and an unpickler carries out whatever it says. Here
nothing is imported and nothing is called: of the opcodes only those are known that such a batch is
written with, and of the names only those that it has for a NumPy array of bytes. They are compared,
not looked up. All else is refused, with its name and its place in the file.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

LARGEST = 64 << 20  # bytes of a batch; CIFAR-10's have 31 MB
_MULTIARRAY = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY, _DTYPE, _ENCODE = "numpy ndarray", "numpy dtype", "_codecs encode"
_NAMES = {*_MULTIARRAY, _NDARRAY, _DTYPE, _ENCODE}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = ("BININT", "BININT1", "BININT2", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING")
_NUMBERS = {"PROTO": 1, "BININT1": 1, "BININT2": 2, "BININT": 4}  # bytes of the argument
_NUMBERS |= {"BINPUT": 1, "LONG_BINPUT": 4, "BINGET": 1, "LONG_BINGET": 4}
_TEXTS = {"SHORT_BINSTRING": 1, "BINSTRING": 4, "BINUNICODE": 4}  # bytes of its length
_SIGNED = ("BININT", "BINSTRING")
_LONGEST_NAME = 80  # bytes
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")


class _Name(NamedTuple):
    """A name that a pickle would import."""

    name: str


class _Dtype:
    """Of bytes."""


class _Array:
    """One of bytes, once it is filled."""

    array: np.ndarray | None = None


class _Refused(ValueError):
    """What is read is no such batch."""


Batch: TypeAlias = dict[str, Any]


def read_batch(content: bytes, where: str) -> Batch:
    """The dict of a batch: texts, lists of integers or texts, and arrays of uint8.

    Args:
        content: of the file.
        where: it is from, for messages.

    Raises:
        ValueError: if it is anything else; the message says what, and at which byte.

    Example:
        >>> read_batch(b"\\x80\\x02}U\\x06labels](K\\x03K\\x07es.", "a batch")
        {'labels': [3, 7]}
        >>> read_batch(b"cos\\nsystem\\n(U\\x02lstR.", "it")
        Traceback (most recent call last):
            ...
        ValueError: it is no batch of CIFAR-10: it has the opcode GLOBAL before PROTO 2 (byte 0).
    """
    if len(content) > LARGEST:
        raise ValueError(f"{where} is no batch of CIFAR-10: it has more than {LARGEST} bytes.")
    machine, place, name = _Machine(), 0, "its first opcode"
    try:
        for name, argument, place in _opcodes(content):
            if machine.take(name, argument):
                if place + 1 != len(content):
                    raise _Refused("more follows its end")
                return _checked(machine.stack)
        raise _Refused("it does not end")
    except _Refused as error:
        said = f"{where} is no batch of CIFAR-10: {error} (byte {place})."
        raise ValueError(said) from None
    except (ValueError, IndexError, TypeError, KeyError) as error:
        raise ValueError(
            f"{where} is no batch of CIFAR-10: it breaks after {name} (byte {place})."
        ) from error


def _opcodes(content: bytes) -> Iterator[tuple[str, Any, int]]:
    """Name, argument and place of each opcode; arguments of those alone that a batch may have."""
    place = 0

    def taken(count: int) -> bytes:
        nonlocal place
        if not 0 <= count <= len(content) - place:
            raise ValueError("it breaks off")
        place += count
        return content[place - count : place]

    def number(count: int, name: str) -> int:
        return int.from_bytes(taken(count), "little", signed=name in _SIGNED)

    while place < len(content):
        begin, code = place, chr(taken(1)[0])
        name = pickletools.code2op[code].name if code in pickletools.code2op else repr(code)
        argument: Any = None
        if name in _NUMBERS:
            argument = number(_NUMBERS[name], name)
        elif name in _TEXTS:
            text = taken(number(_TEXTS[name], name))
            argument = text.decode("utf-8" if name == "BINUNICODE" else "latin-1")
        elif name == "GLOBAL":
            lines = content[place : place + _LONGEST_NAME].split(b"\n")
            if len(lines) < 3:
                raise _Refused("it has a name without an end")
            taken(len(lines[0]) + len(lines[1]) + 2)
            argument = f"{lines[0].decode('latin-1')} {lines[1].decode('latin-1')}"
        yield name, argument, begin


def _checked(stack: list[Any]) -> Batch:
    """What is left at the end, if it is a dict of what a batch holds."""
    if len(stack) != 1 or type(stack[0]) is not dict:
        raise _Refused("it is no dict")
    found: Batch = {}
    for key, value in stack[0].items():
        value = value.array if type(value) is _Array else value
        plain = isinstance(value, str | np.ndarray) or type(value) is int
        if type(value) is list:
            plain = {type(each) for each in value} in ({int}, {str}, set())
        if not plain:
            raise _Refused(f"its {key[:40]!r} is no text, number, list or array of them")
        found[key] = value
    return found


class _Machine:
    """The stack machine of pickles, as far as such a batch needs it.

    Strings of Python 2 and bytes are read as texts, in which each character is a byte. What is read
    takes memory and time in proportion to the file: no value is walked through, compared in depth,
    hashed or printed unless it is a text or a number, since values may hold each other many times.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []  # places in the stack
        self._memo: dict[int, Any] = {}
        self._begun = False

    def take(self, name: str, argument: Any) -> bool:
        """Carry out an opcode; true if it is the last one."""
        if not self._begun:
            if (name, argument) != ("PROTO", 2):
                raise _Refused(f"it has the opcode {name} before PROTO 2")
            self._begun = True
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _PUTS:
            self._memo[argument] = self._last(object)
        elif name in _GETS:
            self.stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(len(self.stack))
        elif name == "GLOBAL":
            if argument not in _NAMES:
                raise _Refused(
                    f"it has the opcode GLOBAL for {argument!r:.80}, which is never imported"
                )
            self.stack.append(_Name(argument))
        elif name == "TUPLE" or name in _TUPLES:
            count = _TUPLES.get(name)
            self.stack.append(tuple(self._popped(count) if count else self._marked()))
        elif name in ("APPEND", "APPENDS"):
            values = self._marked() if name == "APPENDS" else self._popped(1)
            self._last(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self._marked() if name == "SETITEMS" else self._popped(2)
            if any(type(key) is not str for key in pairs[::2]):
                raise _Refused("it has a key that is no text")
            self._last(dict).update(zip(pairs[::2], pairs[1::2], strict=True))
        elif name == "REDUCE":
            self.stack.append(_called(*self._popped(2)))
        elif name == "BUILD":
            (state,) = self._popped(1)
            _filled(self._last(object), state)
        elif name != "STOP":
            raise _Refused(f"it has the opcode {name}")
        return name == "STOP"

    def _last(self, kind: type) -> Any:
        if len(self.stack) <= self._floor or not isinstance(self.stack[-1], kind):
            raise _Refused(f"it has no {kind.__name__} where one is needed")
        return self.stack[-1]

    def _popped(self, count: int) -> list[Any]:
        if len(self.stack) - count < self._floor:
            raise _Refused("it takes more than there is")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _marked(self) -> list[Any]:
        if not self._marks:
            raise _Refused("it takes more than there is")
        place = self._marks.pop()
        values = self.stack[place:]
        del self.stack[place:]
        return values

    @property
    def _floor(self) -> int:
        """Below it nothing is taken until the last mark is."""
        return self._marks[-1] if self._marks else 0


def _called(function: Any, arguments: Any) -> Any:
    """What stands for a call, of the three that there are."""
    name = function.name if type(function) is _Name else None
    if name in _MULTIARRAY and arguments == (_Name(_NDARRAY), (0,), "b"):
        return _Array()
    if name == _DTYPE and arguments in (("u1", 0, 1), ("u1", False, True)):
        return _Dtype()
    pair = type(arguments) is tuple and len(arguments) == 2
    if name == _ENCODE and pair and type(arguments[0]) is str and arguments[1] == "latin1":
        return arguments[0]  # how Python 3 writes bytes in this protocol
    raise _Refused(
        f"it has the opcode REDUCE, calling {name or type(function).__name__} as no batch does"
    )


def _filled(what: Any, state: Any) -> None:
    """Take what a pickle would set: the bytes of an array, or what is known of a dtype of bytes."""
    if type(what) is _Dtype and state == (3, "|", None, None, None, -1, -1, 0):
        return
    if type(what) is _Array and what.array is None and type(state) is tuple and len(state) == 5:
        version, shape, dtype, fortran, content = state
        sizes = type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
        known = version == 1 and type(dtype) is _Dtype and not fortran and type(content) is str
        if sizes and known and math.prod(shape) == len(content):
            flat = np.frombuffer(content.encode("latin1"), np.uint8)
            what.array = flat.reshape(shape)
            return
    raise _Refused("it has the opcode BUILD for what is no array of bytes")
