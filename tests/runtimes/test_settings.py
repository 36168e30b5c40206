"""What a context manager has set where `train` is called holds in every thread of the run."""

import contextlib
import contextvars
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import jax_ssp as ssp
from jax_ssp.runtimes import settings as module
from jax_ssp.runtimes.settings import Settings

USERS = jax.make_user_context(default_value=None)
VARIABLE = contextvars.ContextVar("variable", default=0)


@contextlib.contextmanager
def variable(value):
    token = VARIABLE.set(value)
    yield
    VARIABLE.reset(token)


def mesh():
    return Mesh(np.array(jax.devices()[:2]), ("x",))


def flag(name):
    return lambda: getattr(jax.config, f"jax_{name}")


# What enters a setting, and what sees it.
SETTINGS = {
    "enable_x64": (lambda: jax.enable_x64(True), lambda: str(jnp.ones(1, float).dtype)),
    "precision": (
        lambda: jax.default_matmul_precision("float32"),
        flag("default_matmul_precision"),
    ),
    "debug_nans": (lambda: jax.debug_nans(True), flag("debug_nans")),
    "debug_infs": (lambda: jax.debug_infs(True), flag("debug_infs")),
    "default_device": (
        lambda: jax.default_device(jax.devices()[1]),
        lambda: str(jnp.ones(1).devices()),
    ),
    "rank_promotion": (lambda: jax.numpy_rank_promotion("warn"), flag("numpy_rank_promotion")),
    "dtype_promotion": (
        lambda: jax.numpy_dtype_promotion("standard"),
        lambda: (
            str((jnp.ones(1) * jnp.arange(1)).dtype)
            if jax.config.jax_numpy_dtype_promotion == "standard"
            else "strict"
        ),
    ),
    "transfer_guard": (lambda: jax.transfer_guard("disallow"), lambda: _transfers()),
    "leaks": (lambda: jax.checking_leaks(), flag("check_tracer_leaks")),
    "prng": (
        lambda: jax.default_prng_impl("rbg"),
        lambda: str(jax.random.key_impl(jax.random.key(0))),
    ),
    "threefry": (lambda: jax.threefry_partitionable(False), flag("threefry_partitionable")),
    "disable_jit": (lambda: jax.disable_jit(), flag("disable_jit")),
    "log_compiles": (lambda: jax.log_compiles(), flag("log_compiles")),
    "set_mesh": (lambda: jax.set_mesh(mesh()), lambda: jax.sharding.get_abstract_mesh().axis_names),
    "users": (lambda: USERS(3), lambda: USERS._obj.value),
    "variable": (lambda: variable(5), VARIABLE.get),
    "errstate": (lambda: np.errstate(over="raise"), lambda: np.geterr()["over"]),
}


def _transfers():
    """Whether NumPy arrays may be given to a program without saying so."""
    try:
        (jax.jit(lambda x: x)(np.ones(1))).block_until_ready()
    except Exception:
        return "disallowed"
    return "allowed"


def in_a_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.every(13)
def test_a_setting_is_carried_into_a_thread_and_ends_there(name):
    enter, seen = SETTINGS[name]
    usual = seen()
    with enter():
        here, settings = seen(), Settings()
    assert here != usual

    def both():
        return settings.run(seen), seen()

    assert in_a_thread(both) == (here, usual)
    assert seen() == usual


@pytest.mark.filterwarnings("ignore:.*context manager has been deprecated:DeprecationWarning")
def test_a_mesh_entered_the_old_way_is_carried():
    from jax._src.mesh import thread_resources

    with mesh():
        settings = Settings()
    carried = in_a_thread(
        lambda: settings.run(lambda: thread_resources.env.physical_mesh.axis_names)
    )
    assert carried == ("x",)


def test_a_jax_with_another_inside_gives_its_public_settings(monkeypatch):
    def local():
        raise ImportError("moved")

    monkeypatch.setattr(module, "_local", local)
    with jax.enable_x64(True), jax.default_matmul_precision("float32"), jax.debug_nans(True):
        settings = Settings()
    names = ("enable_x64", "default_matmul_precision", "debug_nans")
    seen = in_a_thread(lambda: settings.run(lambda: [flag(name)() for name in names]))
    assert seen == [True, "float32", True]


# In a run.


def loss_fn(params, batch, key):
    return jnp.sum((params["w"] - jnp.asarray(batch) / 3) ** 2), {}


def run(runtime, **spec):
    usual = {
        "params": {"w": jnp.zeros(3)},
        "data": lambda worker: iter([np.full(3, 1.0)] * 40),
        "policy": ssp.BSP(),
        "num_clocks": 6,
    }
    return ssp.train(ssp.make_step(loss_fn, optax.sgd(0.1)), runtime=runtime, **{**usual, **spec})


def devices():
    return ssp.Devices(num_workers=2)


@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize("enter", [lambda: jax.enable_x64(True), lambda: jax.enable_x64(False)])
@pytest.mark.every(4)
def test_the_numbers_on_devices_are_those_of_virtual_time(enter, local_steps):
    with enter():
        virtual = run(ssp.Virtual(num_workers=2), local_steps=local_steps)
        real = run(devices(), local_steps=local_steps)
        again = run(ssp.Replay(real.tape), local_steps=local_steps)
    assert real.params["w"].dtype == virtual.params["w"].dtype
    np.testing.assert_array_equal(real.params["w"], virtual.params["w"])
    np.testing.assert_array_equal(real.params["w"], again.params["w"])


def test_the_guard_of_a_thread_stays_with_it():
    """JAX refuses a second one, so workers and evaluations begin without."""
    seen = {}

    def evaluate(params):
        seen[threading.current_thread()] = jax.config.jax_thread_guard
        return {"w": jnp.sum(params["w"])}

    slices = ssp.Devices(devices_per_worker=2)
    with jax.thread_guard(True):
        for runtime in (devices(), slices):
            result = run(runtime, params={"w": np.zeros(3, np.float32)}, evaluate=evaluate)
            assert result.status == "done"
        assert jax.config.jax_thread_guard
    assert len(seen) > 1
    assert all(on == (who is threading.main_thread()) for who, on in seen.items())


@pytest.mark.parametrize("recovery", [None, ssp.Recovery()], ids=["none", "recovery"])
def test_a_setting_that_cannot_be_entered_in_a_thread_ends_the_run(recovery, monkeypatch):
    @contextlib.contextmanager
    def only_once():
        raise RuntimeError("it is set in another thread")
        yield

    monkeypatch.setattr(module, "_of_jax", lambda: [only_once])
    with pytest.raises(RuntimeError, match="it is set in another thread"):
        run(ssp.Devices(num_workers=2, recovery=recovery))


GUARDED = ["devices", "donors", "evaluation", "fragments", "recovery", "settings", "slices"]


@pytest.mark.slow
def test_the_tests_of_devices_pass_under_the_guard_of_threads():
    """Each in a thread that has it, as `tests/conftest.py` does where it is told to."""
    folder = Path(__file__).parent
    files = [folder / f"test_{name}.py" for name in GUARDED]
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    about = {"cwd": folder.parents[1], "env": {**os.environ, "THREAD_GUARD": "1"}}
    done = subprocess.run(
        [*words, "-m", "not slow"], capture_output=True, text=True, check=False, **about
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_the_guard_is_on_where_it_is_asked_for():
    assert jax.config.jax_thread_guard == (os.environ.get("THREAD_GUARD") == "1")


def test_evaluation_beside_the_workers_has_them_too():
    seen = {}

    def evaluate(params):
        seen[threading.current_thread().name] = VARIABLE.get(), str(jnp.ones(1, float).dtype)
        return {"w": jnp.sum(params["w"])}

    with jax.enable_x64(True), variable(5):
        run(devices(), evaluate=evaluate, eval_every=1)
    assert len(seen) == 2
    assert set(seen.values()) == {(5, "float64")}


def test_a_nan_is_found_in_a_workers_thread():
    data = lambda worker: iter([np.full(3, np.nan)] * 40)  # noqa: E731
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        run(devices(), data=data)
