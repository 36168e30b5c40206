"""One rule and one message for each kind of argument."""

import doctest
import enum
import fractions
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ssp import checks


class Hostile:
    """Whatever is asked of it fails."""

    def fail(self, *arguments):
        raise RuntimeError("hostile")

    __repr__ = __str__ = __index__ = __float__ = __int__ = __bool__ = __len__ = __iter__ = fail
    __eq__ = __hash__ = fail


class Number(enum.IntEnum):
    THREE = 3


NO_INTEGERS = {
    "none": None,
    "bool": True,
    "a bool of NumPy": np.True_,
    "a bool of JAX": jnp.bool_(True),
    "float": 2.0,
    "a float of JAX": jnp.float32(2),
    "string": "3",
    "an array of one": np.array([3]),
    "an array of two": jnp.array([1, 2]),
    "list": [3],
    "complex": 3j,
    "key": jax.random.key(0),
    "hostile": Hostile(),
    "class": int,
}


def test_what_the_module_says_of_itself():
    assert doctest.testmod(checks).failed == 0


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3), jnp.uint32(3), Number.THREE])
def test_an_integer_of_any_library_becomes_one_of_python(value):
    found = checks.integer("f(n=...)", value, least=3, most=3)
    assert found == 3
    assert type(found) is int
    assert type(checks.number("f(x=...)", value)) is int


@pytest.mark.parametrize("value", NO_INTEGERS.values(), ids=NO_INTEGERS)
def test_what_is_no_integer(value):
    with pytest.raises(TypeError, match=r"^`f\(n=\.\.\.\)` must be an integer, got .+\.$"):
        checks.integer("f(n=...)", value)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (-1, {"least": 0}, "must be non-negative, got -1."),
        (0, {"least": 1}, "must be at least 1, got 0."),
        (9, {"most": 8}, "must be at most 8, got 9."),
        (2**63, {}, f"must be at most {2**63 - 1}, got {2**63}."),
        (10**400, {}, f"must be at most {2**63 - 1}, got 2**1328 or more."),
        (-(10**5000), {}, f"must be at least {1 - 2**63}, got -2**16609 or more."),
    ],
    ids=lambda value: "",
)
def test_an_integer_out_of_range(value, limits, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        checks.integer("f(n=...)", value, **limits)
    assert str(raised.value) == f"`f(n=...)` {message}"


@pytest.mark.parametrize("value", [0, 2**32 - 1, np.uint32(7)])
def test_a_seed(value):
    assert checks.seed("f(seed=...)", value) == value


@pytest.mark.parametrize(("value", "must"), [(-1, "non-negative"), (2**32, "at most 4294967295")])
def test_no_seed(value, must):
    with pytest.raises(ValueError, match=rf"^`f\(seed=\.\.\.\)` must be {must}, got {value}\.$"):
        checks.seed("f(seed=...)", value)


@pytest.mark.parametrize(
    "value",
    [0.5, np.float64(0.5), np.float16(0.5), jnp.bfloat16(0.5), fractions.Fraction(1, 2)],
)
def test_a_number_of_any_library_becomes_one_of_python(value):
    found = checks.number("f(x=...)", value, least=0.5, most=0.5)
    assert found == 0.5
    assert type(found) is float


def test_a_large_integer_becomes_a_float():
    assert type(checks.number("f(x=...)", 2**31 - 1)) is int
    assert type(checks.number("f(x=...)", 2**31)) is float


@pytest.mark.parametrize(
    "value",
    [None, True, np.True_, jnp.bool_(False), "1", [1.0], np.zeros(1), 1j, Hostile(), float],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"^`f\(x=\.\.\.\)` must be a number, got .+\.$"):
        checks.number("f(x=...)", value)


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), jnp.float32("inf"), 10**400])
def test_a_number_is_finite(value):
    with pytest.raises(ValueError, match=r"^`f\(x=\.\.\.\)` must be finite, got .+\.$"):
        checks.number("f(x=...)", value, least=0)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (-0.5, {"least": 0}, "non-negative, got -0.5."),
        (0, {"above": 0}, "positive, got 0."),
        (1.5, {"least": 0, "most": 1}, "at most 1, got 1.5."),
        (0, {"least": 1, "most": 2}, "at least 1, got 0."),
        (2, {"above": 2}, "above 2, got 2."),
        (1e19, {"most": 1e18}, "at most 1e+18, got 1e+19."),
    ],
)
def test_a_number_out_of_range(value, limits, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        checks.number("f(x=...)", value, **limits)
    assert str(raised.value) == f"`f(x=...)` must be {message}"


def test_a_share():
    for value in (0, 0.5, 1, np.float32(1)):
        assert checks.share("f(x=...)", value) == value
    for value in (-0.1, 1.1, 2, float("nan"), -float("inf")):
        with pytest.raises(ValueError, match=rf"must be between 0 and 1, got {value}\.$"):
            checks.share("f(x=...)", value)
    for value in (-1, 0):
        with pytest.raises(ValueError, match=rf"must be above 0 and at most 1, got {value}\.$"):
            checks.share("f(x=...)", value, zero=False)
    for value in (-1, 1.0):
        with pytest.raises(ValueError, match=rf"must be at least 0 and less than 1, got {value}\."):
            checks.share("f(x=...)", value, one=False)
    with pytest.raises(TypeError, match=r"^`f\(x=\.\.\.\)` must be a number, got True\.$"):
        checks.share("f(x=...)", True)


def test_a_tracer_is_no_argument():
    with pytest.raises(TypeError, match=r"^`f\(n=\.\.\.\)` must be an integer, got "):
        jax.jit(lambda n: checks.integer("f(n=...)", n))(3)
    with pytest.raises(TypeError, match=r"^`f\(x=\.\.\.\)` must be a number, got "):
        jax.jit(lambda x: checks.number("f(x=...)", x))(3.0)
    with pytest.raises(TypeError, match=r"^`f\(b=\.\.\.\)` must be True or False, got "):
        jax.jit(lambda b: checks.flag("f(b=...)", b))(True)


@pytest.mark.parametrize("value", [True, np.True_, jnp.bool_(True)])
def test_a_flag(value):
    assert checks.flag("f(b=...)", value) is True


@pytest.mark.parametrize("value", [None, 1, 0, "False", "no", "", [], jnp.int32(1), Hostile()])
def test_no_flag(value):
    with pytest.raises(TypeError, match=r"^`f\(b=\.\.\.\)` must be True or False, got .+\.$"):
        checks.flag("f(b=...)", value)


def test_a_choice():
    assert checks.choice("f(c=...)", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match=r'^`f\(c=\.\.\.\)` must be "a" or "b", got \'c\'\.$'):
        checks.choice("f(c=...)", "c", ("a", "b"))
    with pytest.raises(TypeError, match=r'^`f\(c=\.\.\.\)` must be "a", "b" or "c", got 3\.$'):
        checks.choice("f(c=...)", 3, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r'must be "a" or a finite number, got \[\]\.$'):
        checks.choice("f(c=...)", [], ("a",), otherwise="or a finite number")


def test_a_text():
    assert checks.text("f(name=...)", "a name, ä") == "a name, ä"
    for value in (None, b"name", ["name"], np.array("name")):
        with pytest.raises(TypeError, match=r"^`f\(name=\.\.\.\)` must be a string, got "):
            checks.text("f(name=...)", value)
    for value in ("", " ", "two\nlines", "a\0", "\ud800", "\x1b[2J"):
        with pytest.raises(ValueError, match=r"^`f\(name=\.\.\.\)` must be one line of text, got "):
            checks.text("f(name=...)", value)


def test_a_path():
    assert checks.path("f(folder=...)", "a/b") == pathlib.Path("a/b")
    assert checks.path("f(folder=...)", pathlib.PurePath("a")) == pathlib.Path("a")
    for value in (None, 3, b"a", ["a"], np.array("a")):
        with pytest.raises(TypeError, match=r"^`f\(folder=\.\.\.\)` must be a path, got "):
            checks.path("f(folder=...)", value)
    for value in ("", "a\0b", "\ud800"):
        with pytest.raises(ValueError, match=r"^`f\(folder=\.\.\.\)` must be a path, got "):
            checks.path("f(folder=...)", value)


def test_a_function():
    signature = "(worker, clock) -> seconds"
    for value in (lambda worker, clock: 1.0, lambda *every: 1.0, dict.get, Hostile.fail):
        assert checks.function("f(delay=...)", value, signature) is value
    for value in (None, 3, "max", Hostile(), [max]):
        with pytest.raises(
            TypeError, match=r"must be a function \(worker, clock\) -> seconds, got"
        ):
            checks.function("f(delay=...)", value, signature)
    assert checks.function("f(evaluate=...)", dict, "(params) -> metrics") is dict
    with pytest.raises(TypeError, match=r"got max, whose arguments are unknown\.$"):
        checks.function("f(delay=...)", max, signature)
    for value in (lambda: 1.0, lambda a, b, c: 1.0, lambda a, *, b: 1.0):
        with pytest.raises(TypeError, match=r"got .*, which cannot be called with 2 arguments: .+"):
            checks.function("f(delay=...)", value, signature)


def test_an_instance():
    path = pathlib.Path("a")
    assert checks.instance("f(p=...)", path, pathlib.Path, "a Path") is path
    with pytest.raises(TypeError, match=r"^`f\(p=\.\.\.\)` must be a Path, got 'a'\.$"):
        checks.instance("f(p=...)", "a", pathlib.Path, "a Path")
    with pytest.raises(TypeError, match=r"must be a Path, got PosixPath; call it: that is the cl"):
        checks.instance("f(p=...)", pathlib.PosixPath, pathlib.Path, "a Path")
    with pytest.raises(TypeError, match=r"must be a Path, got .*cwd.*; call it, if it makes one\."):
        checks.instance("f(p=...)", pathlib.Path.cwd, pathlib.Path, "a Path")


def test_several():
    for value in ([1, 2], (1, 2), range(1, 3), np.array([1, 2]), jnp.array([1, 2])):
        assert checks.several("f(each=...)", value, "a list of numbers") == (1, 2)
    for value in (None, 3, "ab", b"ab", {}, {1}, Hostile(), np.array(2), iter([1])):
        with pytest.raises(TypeError, match=r"^`f\(each=\.\.\.\)` must be a list of numbers, got "):
            checks.several("f(each=...)", value, "a list of numbers")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("no", "'no'"),
        (np.float32(2), "float32(2.0)"),
        (jnp.int32(2), "int32(2)"),
        (np.zeros((2, 3)), "an array of float64[2, 3]"),
        (10**5000, "2**16609 or more"),
        (Hostile(), "<Hostile object>"),
        ([Hostile()], "[<Hostile object>]"),
        (max, "max"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_in_a_message(value, text):
    assert checks.shown(value) == text


def test_a_long_value_is_cut():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    for value in ("a" * 10_000, list(range(10_000)), dict.fromkeys(range(10_000)), deep):
        assert len(checks.shown(value)) <= 100
