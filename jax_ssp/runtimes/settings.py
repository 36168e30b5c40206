"""Settings made by a context manager, which hold for one thread, carried into another.

`with jax.enable_x64(True): train(...)` is to mean the same whether a world has threads or not.
"""

from __future__ import annotations

import contextvars
import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

# The context managers of JAX that are public and have a flag, for a JAX whose inside has changed.
_PUBLIC = (
    *("enable_x64", "default_matmul_precision", "default_device", "debug_nans", "debug_infs"),
    *("numpy_dtype_promotion", "numpy_rank_promotion", "default_prng_impl", "disable_jit"),
    *("threefry_partitionable", "log_compiles", "check_tracer_leaks", "enable_custom_prng"),
)


class Settings:
    """What holds in the thread that makes this: JAX's settings, meshes, and context variables.

    Example:
        >>> with jax.enable_x64(True):
        ...     settings = Settings()
        >>> settings.run(lambda: jax.config.jax_enable_x64), jax.config.jax_enable_x64
        (True, False)
    """

    def __init__(self) -> None:
        self._variables = contextvars.copy_context()
        self._entered = _of_jax()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function with these settings, in any thread."""
        return self._variables.copy().run(self._call, function, *arguments)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with ExitStack() as inside:
            for enter in self._entered:
                inside.enter_context(enter())
            return function(*arguments)


def _of_jax() -> list[Callable[[], Any]]:
    """For each setting of JAX in this thread, what makes the context manager to enter."""
    try:
        return [*_local(), *_mesh()]
    except (ImportError, AttributeError):  # another JAX, with another inside
        return list(_public())


def _local() -> Iterator[Callable[[], Any]]:
    """Whatever has a value of its own in this thread."""
    from jax._src import config

    kinds, unset = {config.config_ext.Config, config.State}, config.config_ext.unset
    # Users make some too (`jax.make_user_context`), and JAX keeps no list of those.
    # A guard is of the thread that set it: JAX refuses a second one in another.
    guard = getattr(jax, "thread_guard", None)
    everywhere = (gc.get_objects(), config.config_states.values(), vars(config).values())
    found = {id(each): each for some in everywhere for each in some if type(each) in kinds}
    for each in found.values():
        value = each.get_local()
        if value is not unset and each is not guard:
            yield lambda each=each, value=value: _set(each, value, unset)


@contextmanager
def _set(setting: Any, value: Any, unset: object) -> Iterator[None]:
    hook = getattr(setting, "_update_thread_local_hook", None) or (lambda value: None)
    before = setting.swap_local(value)
    hook(value)
    try:
        yield
    finally:
        setting.set_local(before)
        hook(None if before is unset else before)


def _mesh() -> Iterator[Callable[[], Any]]:
    """The mesh of `with mesh:`, which JAX keeps apart."""
    from jax._src.mesh import thread_resources

    mesh = thread_resources.env.physical_mesh
    if not mesh.empty:
        yield lambda: _resources(thread_resources, thread_resources.env.__class__(mesh))


@contextmanager
def _resources(thread_resources: Any, env: Any) -> Iterator[None]:
    before, thread_resources.env = thread_resources.env, env
    try:
        yield
    finally:
        thread_resources.env = before


def _public() -> Iterator[Callable[[], Any]]:
    """All that can be read and set without looking inside JAX."""
    for name in _PUBLIC:
        flag = "jax_" + name
        if hasattr(jax, name) and hasattr(jax.config, flag):
            value = getattr(jax.config, flag)
            yield lambda name=name, value=value: getattr(jax, name)(value)
