"""Every test runs on 4 virtual CPU devices, under strict dtype and rank promotion."""

import collections
import os
import shutil
import tempfile
import zlib

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Programs that are compiled again and again are compiled once: by this process, by those of xdist,
# and by those that tests start.
COMPILED = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.mkdtemp(prefix="jax_ssp-tests-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", COMPILED)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_unconfigure(config):
    if COMPILED is not None:
        shutil.rmtree(COMPILED, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """In the quick loop a process takes all tests of a file, which share what they trace and make.

    Slow ones share little, and some take minutes: they are dealt one by one.
    """
    if config.option.dist != "load" or "not slow" not in config.option.markexpr:
        return None
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


LONG = 12  # slow cases; of fewer CI takes all


def is_rare(nodeid):
    """Of three in four cases; drawn by its name, so that a new case changes no other's fate."""
    return zlib.crc32(nodeid.encode()) % 4 > 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Which cases of a table are slow, and which of those are rare.

    Of a test marked `every(n)`, all cases but each n-th are slow. Of more than `LONG` slow cases of
    one test, CI takes a quarter; the others are rare. It takes all of one that is marked `whole`.
    """
    seen, slow = collections.Counter(), collections.defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("every")
        family = item.nodeid.partition("[")[0]
        if mark is not None and item.get_closest_marker("slow") is None:
            if seen[family] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
            seen[family] += 1
        if item.get_closest_marker("slow") and not item.get_closest_marker("whole"):
            slow[family].append(item)
    for cases in slow.values():
        for case in cases if len(cases) > LONG else ():
            if is_rare(case.nodeid):
                case.add_marker(pytest.mark.rare)


def pytest_addoption(parser):
    about = "keep what this version writes, in tests/golden, in place of what is there"
    parser.addoption("--rewrite-golden", action="store_true", help=about)


@pytest.fixture(autouse=os.environ.get("THREAD_GUARD") == "1")
def thread_guard():
    """Under THREAD_GUARD=1 a test fails where JAX sees its threads give it what only one may."""
    with jax.thread_guard(True):
        yield


@pytest.fixture
def standard_promotion():
    """For what optax does not do strictly, such as Adam's bias correction; in all threads."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def compilations():
    """Counts what XLA compiles: `compilations()` gives how much since the last call."""
    seen = []

    def listener(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(seconds)

    def since_last_call():
        count = len(seen)
        seen.clear()
        return count

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield since_last_call
    jax.monitoring.unregister_event_duration_listener(listener)
