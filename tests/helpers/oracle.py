"""Whether what came of a call is right: a value that makes sense, or an error that helps."""

import contextlib
import inspect
import linecache
import os
import signal
import traceback
import types

import jax

import jax_ssp
from jax_ssp import checks
from tests.helpers import pool

LONGEST = 700  # characters of a message
SECONDS = 30
# What messages call an argument that its user has not named.
ALSO = {"data": "batch", "text": "target", "metrics": "evaluate", "now": "time"}


class Unclear(AssertionError):
    """What came of a call is not right."""


@contextlib.contextmanager
def no_longer_than(seconds=SECONDS):
    """Ends what hangs."""

    def stop(*_):
        raise Unclear(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(error, wrong, parameters):
    """Raise unless an error names one of the wrong arguments, and is of this package's making.

    Args:
        error: what was raised.
        wrong: values by the name of the argument.
        parameters: names of all arguments.
    """
    text = str(error)
    if any(raised_by_them(error, value) for value in wrong.values()):
        return  # it is the user's own function or object that fails, for the user to see
    if type(error) is jax.errors.UnexpectedTracerError:
        return  # what leaked out of a program, of which JAX says more than anybody could
    if isinstance(error, OSError) and (error.filename or type(error) is FileNotFoundError):
        if not names_a_file(text, wrong):
            raise Unclear("it does not name the file") from error
        return
    own = type(error).__module__.startswith("jax_ssp") and isinstance(error, ValueError | TypeError)
    if type(error) not in (ValueError, TypeError) and not own:
        raise Unclear(f"a foreign {type(error).__name__}") from error
    if not raised_by_us(error):
        raise Unclear("an error of what is underneath") from error
    if len(text) > LONGEST:
        raise Unclear(f"a message of {len(text)} characters") from error
    if raised_by_us(error) and names_a_file(text, wrong):
        return
    named = [name for name in wrong if name in text or ALSO.get(name, "\0") in text]
    if not named:
        raise Unclear(f"it names none of {sorted(wrong)}") from error
    together = len([name for name in parameters if f"`{name}`" in text]) > 1
    if not together and not any(
        said(wrong[name], text) or place_is_said(name, text) for name in named
    ):
        raise Unclear("it does not say the value") from error


def place_is_said(name, text):
    """Whether a text tells which part of an argument is wrong, or of what kind it is."""
    return any(
        part in text
        for part in (
            f"{name}[",
            f"{name}=...)[",
            f"`{name}` is ",
            f"`{name}` goes ",
            f"`{name}` must return ",
            f"`{name}(worker=",
            f"{name}=...)()",
            f"{name}=...)` must be a JAX device",
        )
    )


def raised_by_them(error, value):
    """Whether the last line that ran is of a user's object, or of what is underneath that."""
    frames = traceback.extract_tb(error.__traceback__)
    files = [frame.filename for frame in frames]
    if files[-1] == pool.__file__ or "loss_fn" in [frame.name for frame in frames]:
        return True
    if value is max and str(error) == "'int' object is not iterable":
        return True  # as `data(0)`; it has no signature that could be looked at before
    if isinstance(value, type | types.BuiltinFunctionType):
        return str(error).lstrip("`").startswith(value.__name__)
    with contextlib.suppress(Exception):
        if callable(value) and inspect.getsourcefile(value) in files[1:]:
            return not files[-1].startswith(jax_ssp.__path__[0])
    return False


def names_a_file(text, wrong):
    """Whether a text names one of the wrong arguments that are paths by what it is."""
    paths = [os.fspath(each) for each in wrong.values() if isinstance(each, str | os.PathLike)]
    return any(path[:30] in text for path in paths if path)


def raised_by_us(error):
    """Whether the last line that ran is a `raise` of this package."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = frame.filename.startswith(jax_ssp.__path__[0])
    return ours and linecache.getline(frame.filename, frame.lineno).lstrip().startswith("raise")


def said(value, text):
    """Whether a text says a value, or what is wrong within it."""
    within = value if isinstance(value, list | tuple) else ()
    if isinstance(value, dict):
        within = value.values()
    if any(said(each, text) for each in within):
        return True
    names = [checks.shown(value)[:30], type(value).__name__, getattr(value, "__name__", "\0")]
    with contextlib.suppress(Exception):
        names.append(f"{value:d}")
    with contextlib.suppress(Exception):
        names.append(repr(float(value)))
    with contextlib.suppress(Exception):
        names.append(f"{len(value)} entries")
    with contextlib.suppress(Exception):
        names.append(repr(sorted(value.keys())))
    with contextlib.suppress(Exception):
        names.append(repr(list(value.dtype.names)))
    return any(name in text for name in names) or "none" in text or "missing" in text
