"""Values that somebody may hand over where something else is wanted."""

import decimal
import fractions
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_ssp as ssp


class Hostile:
    """Whatever is asked of it fails."""

    def fail(self, *arguments, **others):
        raise RuntimeError("hostile")

    __repr__ = __str__ = __format__ = __index__ = __float__ = __int__ = __bool__ = fail
    __len__ = __iter__ = __eq__ = __hash__ = __call__ = __lt__ = __array__ = fail


class Liar:
    """It says that it is a number, and gives something else."""

    def __index__(self):
        return "no"

    def __float__(self):
        return "no"

    def __eq__(self, other):
        return np.array([True, False])

    __hash__ = None


class Undescribed:
    """Fine, but for its text."""

    def __repr__(self):
        raise RecursionError("too deep")


class Talkative(int):
    """An integer with a long text."""

    def __repr__(self):
        return "a very long text\n" * 1000


def tracers():
    """What leaks out of a program: it has a type and a shape, and no value."""
    leaked = []
    jax.eval_shape(lambda *each: leaked.extend(each), jnp.int32(1), jnp.float32(1), jnp.zeros(2))
    return leaked


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def pool():
    """The values by a name of each; some can be used once only, so it is made anew each time."""
    integer, real, vector = tracers()
    return {
        **{repr(value): value for value in (None, True, False, 0, 1, -1, 2, 3, 7, 100, 2**31)},
        **{repr(value): value for value in (0.0, 0.5, -0.5, 1.0, 1.5, 1e-300, 1e300, 5e-324)},
        **{repr(value): value for value in (2**63, -(2**63), 2**64, math.nan, math.inf, -math.inf)},
        **{repr(value): value for value in ("", " ", "False", "no", "3", "nan", "mean", "a >= 1")},
        **{repr(value): value for value in ("a\0b", "\ud800", "cpu:0", b"3", 1j, ..., {})},
        **{repr(value): value for value in ([], [1], ["a"], [[1.0], [2.0]], [None], (), (1, 2))},
        **{repr(value): value for value in ((1.0, math.nan), {"a": 1}, {"w": "x"}, {1: 2, "a": 3})},
        "a long string": "x" * 300,
        "10**400": 10**400,
        "-10**5000": -(10**5000),
        "set": {1},
        "nested": nested(40),
        "iterator": iter([1]),
        "generator": (number for number in (1, 2)),
        "range": range(3),
        "fraction": fractions.Fraction(1, 2),
        "decimal": decimal.Decimal("0.5"),
        "path": pathlib.Path("missing/file"),
        "a bool of numpy": np.True_,
        "a nan of numpy": np.float64("nan"),
        "a float16 of numpy": np.float16(0.5),
        "an int of numpy": np.int64(2),
        "an int array": np.array(3),
        "an array of one": np.array([1]),
        "an array": np.array([1.0, 2.0]),
        "a matrix": np.zeros((2, 2)),
        "an empty array": np.zeros((0, 2)),
        "an array of a string": np.array("a"),
        "an array of objects": np.array([None, "a"]),
        "a time": np.datetime64("2020-01-01"),
        "a structured array": np.zeros(2, [("worker", int), ("clock", int)]),
        "an int of jax": jnp.int32(3),
        "a float of jax": jnp.float32(0.5),
        "a bfloat16 of jax": jnp.bfloat16(2),
        "a bool of jax": jnp.bool_(True),
        "a vector of jax": jnp.zeros(3),
        "a complex number of jax": jnp.complex64(1j),
        "a key": jax.random.key(0),
        "a shape": jax.ShapeDtypeStruct((2,), jnp.float32),
        "a device": jax.devices()[0],
        "an int tracer": integer,
        "a float tracer": real,
        "a vector tracer": vector,
        "object": object(),
        "hostile": Hostile(),
        "liar": Liar(),
        "undescribed": Undescribed(),
        "talkative": Talkative(1),
        "a list of hostiles": [Hostile()],
        "a dict of hostiles": {"w": Hostile()},
        "a function of none": lambda: 1.0,
        "a function of anything": lambda *each, **others: 1.0,
        "a function of five": lambda a, b, c, d, e: 1.0,
        "a function that fails": Hostile().fail,
        "int": int,
        "str": str,
        "max": max,
        "module": math,
        "not implemented": NotImplemented,
        "exception": ValueError("mine"),
        "a policy": ssp.SSP(bound=1),
        "a policy's class": ssp.SSP,
        "a runtime": ssp.Virtual(2, compute=False),
        "a schedule": ssp.DyLU(h=2),
        "a delay": ssp.delays.Constant(1.0),
        "a compressor": ssp.compression.Int8(),
        "a compressor for deltas": ssp.compression.Sign(),
        "a mix": ssp.Mix(0.5),
        "an observer": ssp.Observer(),
        "an optimizer": optax.sgd(0.1),
        "an optimizer's maker": optax.sgd,
        "a configured transform": ssp.configured(optax.scale, step_size=0.5),
        "a tree": {"w": np.zeros(2, np.float32)},
        "trees": [{"w": np.zeros(2, np.float32)}],
    }


NAMES = tuple(pool())
