"""What the processes of a worker sum before all else, so that they know each other."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jax_ssp.slices import Slice, laid


def introduce(place: Slice) -> None:
    """Have the processes of a slice sum something, along each of its axes and along several.

    Who sums with others for the first time gives up after half a minute (gloo), and later waits as
    long as it takes. So they begin with this: until their first clock one may compile for minutes
    longer than another.
    """
    mesh = place.mesh
    assert isinstance(mesh, Mesh)
    names = mesh.axis_names
    for some in itertools.chain(*(itertools.combinations(names, n + 1) for n in range(len(names)))):
        sharding = NamedSharding(mesh, jax.P(some))
        ones = laid(np.ones(math.prod(mesh.shape[n] for n in some), np.float32), sharding)
        add = functools.partial(jax.lax.psum, axis_name=some)
        summed = jax.shard_map(add, mesh=mesh, in_specs=jax.P(some), out_specs=jax.P())
        jax.block_until_ready(jax.jit(summed)(ones))
