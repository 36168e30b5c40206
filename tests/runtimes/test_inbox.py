"""Whoever waits for so long, however short, waits no longer."""

import queue
import subprocess
import sys
import threading

import pytest

from jax_ssp.runtimes.inbox import next_in

MANY = """
import queue
from jax_ssp.runtimes.inbox import next_in

for _ in range(20_000):
    inbox = queue.SimpleQueue()
    for _ in range(2):  # the second finds it as the first has left it
        try:
            next_in(inbox, 1e-6)
        except queue.Empty:
            pass
    inbox.put(1)
    assert next_in(inbox, 1e-6) == 1
    try:
        next_in(inbox, 1e-6)
    except queue.Empty:
        pass
"""


def test_the_shortest_waits_come_to_their_end():
    """Before Python 3.13 `SimpleQueue.get` by itself hangs here within seconds."""
    subprocess.run([sys.executable, "-c", MANY], check=True, timeout=120)


def test_nothing_is_waited_for_where_there_is_no_time():
    inbox = queue.SimpleQueue()
    for seconds in (0, -1.0):
        with pytest.raises(queue.Empty):
            next_in(inbox, seconds)


def test_who_waits_hears_of_what_comes():
    inbox = queue.SimpleQueue()
    threading.Timer(0.05, inbox.put, ["news"]).start()
    assert next_in(inbox, 60.0) == "news"
