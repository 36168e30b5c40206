"""What a clock costs, in what does not depend on the machine: how many functions it calls."""

import threading
from collections import Counter

import jax

import jax_ssp as ssp
from tests.helpers.problems import linear

MOST = 140  # Python functions; the newer Pythons, where comprehensions are none, call fewer


def called(num_clocks):
    """How often each function is called in the threads of a run, by its file and name."""
    found = Counter()

    def profile(frame, event, arg):
        if event == "call":
            found[frame.f_code.co_filename, frame.f_code.co_name] += 1

    runtime = ssp.Devices(jax.devices("cpu")[:1] * 2)
    threading.setprofile(profile)
    try:
        ssp.train(**linear(runtime=runtime, policy=ssp.ASP(), num_clocks=num_clocks))
    finally:
        threading.setprofile(None)
    return found


def test_a_clock_calls_no_more_functions_than_it_did():
    called(2)  # compiles
    few, many = called(20), called(120)
    each = {name: (many[name] - few[name]) / 200 for name in many}
    most = sorted(each.items(), key=lambda item: -item[1])[:10]
    assert sum(each.values()) <= MOST, f"{sum(each.values())} calls a clock; the most: {most}"
