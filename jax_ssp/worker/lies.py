"""How what a worker's programs give is to lie on a slice, whatever XLA would choose."""

from __future__ import annotations

import functools
from typing import Any

import jax

from jax_ssp.layout import Layout
from jax_ssp.shardings import Specs, state_specs
from jax_ssp.slices import pinned


class Lies:
    """How what programs give is to lie on a slice, whatever XLA would choose; pure.

    Args:
        layout: of the parameters.
        specs: of each leaf of them.
    """

    def __init__(self, layout: Layout, specs: Specs) -> None:
        self._layout = layout
        self._specs = specs

    def like_params(self, tree: Any) -> Any:
        """Parameters or a delta."""
        leaves = self._layout.structure.flatten_up_to(tree)
        return self._layout.structure.unflatten(
            jax.tree.map(functools.partial(pinned, spec=spec), leaf)
            for leaf, spec in zip(leaves, self._specs, strict=True)
        )

    def state(self, state: Any, params: Any) -> Any:
        """A step's state: what is shaped like a parameter lies like it."""
        leaves, structure = jax.tree.flatten(state)
        specs = state_specs(state, params, self._specs)
        return structure.unflatten(map(pinned, leaves, specs))
