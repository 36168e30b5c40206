"""What the processes of a worker sum before all else, and what becomes of those who do not."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jax_ssp.runtimes.ray.first_sums import introduce
from jax_ssp.runtimes.ray.meeting import free_address
from jax_ssp.slices import Slice

LATE = 35.0  # seconds: more than gloo waits for the first sum

PROCESS = """
import os, sys, time, jax, numpy as np
from jax.sharding import Mesh
from jax_ssp.runtimes.ray.first_sums import introduce
from jax_ssp.runtimes.ray.meeting import join
from jax_ssp.slices import Slice, laid

address, rank, introduced = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "introduced"
join(address, rank, 2)
place = Slice(Mesh(np.array(jax.devices()), ("a",)), ())
if introduced:
    introduce(place)
time.sleep(rank * float(sys.argv[4]))
add = lambda x: jax.lax.psum(x, "a")
ones = laid(np.ones(2, np.float32), place.sharding(jax.P("a")))
sums = jax.jit(jax.shard_map(add, mesh=place.mesh, in_specs=jax.P("a"), out_specs=jax.P()))
try:
    print("the sum is", float(np.asarray(sums(ones))[0]), flush=True)
except Exception as error:
    print(error, flush=True)
os._exit(0)  # without a last meeting, for which the other may not come
"""


def test_they_sum_along_each_axis_and_along_several(monkeypatch):
    summed, psum = [], jax.lax.psum

    def seen(x, axis_name):
        summed.append(axis_name)
        return psum(x, axis_name)

    monkeypatch.setattr(jax.lax, "psum", seen)
    introduce(Slice(Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b")), ()))
    assert [*dict.fromkeys(summed)] == [("a",), ("b",), ("a", "b")]


@pytest.mark.ray
@pytest.mark.slow
def test_who_has_summed_before_is_waited_for_and_who_has_not_comes_too_late():
    pairs, kept = {}, []
    for how in ("introduced", "not"):
        port, address = free_address(local=True)
        kept.append(port)
        pairs[how] = [
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, address, str(rank), how, str(LATE)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
    try:
        told = {how: pair[0].communicate(timeout=LATE + 60) for how, pair in pairs.items()}
    finally:
        for process in [each for pair in pairs.values() for each in pair]:
            process.kill()
            process.communicate()
        for port in kept:
            port.close()
    assert told["introduced"][0].endswith("the sum is 2.0\n")
    assert "timed out" in told["not"][0]
    assert "the sum is" not in told["not"][0]
