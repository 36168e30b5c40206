"""A version of the parameters as observers see it, at the moment when they are told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_ssp.server.store import Store
    from jax_ssp.trees import Params


@dataclass(eq=False)
class Version:
    """A version: how far training has come by it, and what the server has there.

    Parameters and states are read while an observer is told of the version, and not later. What was
    read is the observer's: keep it as long as you like, and change its containers. Its arrays may
    be shared with the run, so do not donate them to a program.

    Attributes:
        version: its number.
        updates: deltas merged by then.
        steps: local steps in them.
        samples: examples in them.
        tokens: in these, where the step says how to count them; else 0.
        round: rounds: as many samples as one synchronous step of all workers, whole ones.
        time: when it was made (seconds).
    """

    version: int
    updates: int
    steps: int
    samples: int
    tokens: int
    round: int
    time: float
    _store: Store = field(repr=False)
    _read: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _told: int = field(default=0, init=False, repr=False)

    @property
    def params(self) -> Params:
        """The parameters in the dtypes that they were given in, on the (first) server device."""
        return _own(self._get("params", lambda: self._store.params))

    @property
    def masters(self) -> Params:
        """The same as the server has them: in at least float32."""
        return _own(self._get("masters", lambda: self._store.masters))

    @property
    def states(self) -> tuple[Any, Any]:
        """Copies of the states of `server_tx` and of `delta_tx`; of several devices, tuples."""
        return _own(self._get("states", self._states))

    def point(self) -> dict[str, Any]:
        """How far training has come by it, as the row of an evaluation has it."""
        names = ("version", "updates", "steps", "samples", "tokens", "time")
        return {name: getattr(self, name) for name in names}

    def hold(self, masters: bool) -> Params:
        """Read the parameters now, and give them; by the time they are told of, they may be gone.

        Args:
            masters: whether to read these too.
        """
        self._read = {"params": self._store.params}
        if masters:
            self._read["masters"] = self._store.masters
        return self._read["params"]

    def held_arrays(self, name: str) -> dict[str, Any]:
        """What was read, for a checkpoint, by name."""
        from jax_ssp.leaves import named

        return named(name, self._read)

    def hold_arrays(self, name: str, arrays: Mapping[str, Any]) -> Params:
        """Have read what was named; gives the parameters."""
        from jax_ssp.leaves import tree_named

        like = {"params": self._store.params}  # whose leaves lie where theirs do
        if any(key.startswith(f"{name}['masters']") for key in arrays):
            like["masters"] = self._store.masters
        self._read = tree_named(name, like, arrays)
        return self._read["params"]

    @contextmanager
    def told(self) -> Iterator[None]:
        """Observers are told of it."""
        self._told += 1
        try:
            yield
        finally:
            self._told -= 1
            self._read = {}

    def _states(self) -> Any:
        import jax
        import jax.numpy as jnp

        return jax.tree.map(jnp.copy, self._store.states)

    def _get(self, name: str, read: Callable[[], Any]) -> Any:
        if not self._told:
            raise RuntimeError(
                f"`Version.{name}` of version {self.version} was read after the call that told of "
                f"it; read it there, and keep what it gives."
            )
        if name not in self._read:
            if self._store.version != self.version:
                raise RuntimeError(
                    f"`Version.{name}` of version {self.version} is gone: by now it is version "
                    f"{self._store.version}. Set `eval_waits=True`, or read it in `on_version`."
                )
            self._read[name] = read()
        return self._read[name]


def _own(tree: Any) -> Any:
    """The same arrays in containers of their own."""
    import jax  # where nothing is computed, a loop runs without it

    return jax.tree.map(lambda leaf: leaf, tree)
