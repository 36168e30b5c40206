"""A signal is never lost, whatever Python is doing when it comes."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from jax_ssp.runtimes.interrupts import (
    Interrupts,
    ask_to_end,
    current,
    deferring,
    listening,
    passed_on,
    terminable,
)


def press(number=signal.SIGINT):
    signal.raise_signal(number)


def swallowed(number=signal.SIGINT):
    """A signal whose exception is lost, as in a finalizer or a callback of the collector."""
    with contextlib.suppress(KeyboardInterrupt):
        press(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_and_is_counted(number):
    before = signal.getsignal(number)
    with listening(number) as interrupts:
        interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            press(number)
        assert interrupts.count == 1
    assert signal.getsignal(number) is before


def test_a_signal_that_was_swallowed_is_found_by_who_looks():
    with listening() as interrupts:
        swallowed()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        told = []
        with interrupts.deferred() as held:
            held.when(lambda: told.append("stop"))
        assert told == ["stop"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_finalizer_is_counted():
    class Gone:
        def __del__(self):
            press()

    with listening() as interrupts:
        Gone()
        assert interrupts.count == 1


def test_the_first_waits_and_the_second_does_not():
    told = []
    with listening() as interrupts, interrupts.deferred() as held:
        held.when(lambda: told.append("stop"))
        press()
        held.check()
        assert told == ["stop"]
        with pytest.raises(KeyboardInterrupt):
            press()
        with pytest.raises(KeyboardInterrupt):
            held.check()  # though the one above was swallowed
        assert (told, interrupts.count) == (["stop"], 2)


def test_a_deferral_in_a_deferral_begins_anew_and_tells_the_outer_one():
    with listening() as interrupts, interrupts.deferred() as outer:
        press()
        with interrupts.deferred() as inner:
            press()
            inner.check()
            swallowed()
            with pytest.raises(KeyboardInterrupt):
                inner.check()
        with pytest.raises(KeyboardInterrupt):
            outer.check()


def test_who_listens_within_hears_with_the_one_outside():
    with listening(signal.SIGINT, signal.SIGTERM) as outer:
        with listening() as inner:
            assert inner is outer
            swallowed(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) == outer.handle
    assert outer.count == 1


def test_a_handler_from_c_is_left_alone(monkeypatch):
    ask = signal.getsignal
    before = ask(signal.SIGINT)
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with listening():
        assert ask(signal.SIGINT) is before
    assert ask(signal.SIGINT) is before


def test_a_handler_that_was_set_meanwhile_is_left_alone():
    before = signal.getsignal(signal.SIGINT)
    try:
        with listening():
            signal.signal(signal.SIGINT, press)
        assert signal.getsignal(signal.SIGINT) is press
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_hears_nothing():
    before = signal.getsignal(signal.SIGINT)
    found = []

    def listen():
        with listening() as interrupts, interrupts.deferred():
            found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [True]


def test_whoever_was_asked_to_end_by_sigterm_alone_is_terminated():
    for numbers, terminated in (
        ([], False),
        ([signal.SIGTERM, signal.SIGTERM], True),
        ([signal.SIGTERM, signal.SIGINT], False),
    ):
        with listening(signal.SIGINT, signal.SIGTERM) as interrupts:
            for number in numbers:
                swallowed(number)
            assert interrupts.terminated is terminated


def test_sigterm_is_taken_in_only_where_nobody_handles_it():
    def mine(*_):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with listening(), terminable() as terminated:
            press(signal.SIGTERM)
            assert not terminated()
            assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with listening(), terminable() as terminated:
            swallowed(signal.SIGTERM)
            assert terminated()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_another_process_passes_on_is_heard_in_any_thread_and_nothing_else_is():
    theirs, told = Interrupts(), []

    @deferring
    def run():
        current().when(lambda: told.append("end"))
        with terminable() as terminated:
            ask_to_end()
            told.append(terminated())
        theirs.take(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            current().check()

    with passed_on(theirs):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert told == ["end", True]
    assert not theirs.terminated
    with listening() as interrupts:
        assert interrupts is not theirs
