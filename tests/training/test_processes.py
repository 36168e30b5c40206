"""Jobs in processes of their own: what they say, how they end, and that none outlives this one."""

import functools
import os
import signal
import sys
import time

import pytest

from jax_ssp.training.processes import Ended, Job, Processes, Said, Started

HOUR = 3600


@pytest.fixture(autouse=True)
def without_jax(monkeypatch):
    """Processes that need not import JAX begin at once."""
    monkeypatch.setattr("jax_ssp.training.processes._settings", dict)


def says(text, tell):
    tell(text)
    print("printed", text)
    print("to standard error", file=sys.stderr)
    return 7


def is_killed(tell):
    os.kill(os.getpid(), signal.SIGKILL)


def raises(tell):
    raise LookupError("nothing is here")


def sleeps(tell):
    try:
        tell("asleep")
        time.sleep(HOUR)
    except KeyboardInterrupt:
        print("woken")
        return 130


def environment(tell):
    tell(os.environ["OF_A_SWEEP"])
    tell(os.environ["HOME"])
    return 0


def of(folder, *works):
    return [Job(work, folder / f"{number}.txt") for number, work in enumerate(works)]


def test_each_job_says_what_it_does_and_how_it_ended(tmp_path):
    works = (functools.partial(says, "hello"), is_killed, raises, environment)
    news = list(Processes(of(tmp_path, *works), 2, {"OF_A_SWEEP": "yes", "HOME": "moved"}))
    assert [each.job for each in news if isinstance(each, Started)] == [0, 1, 2, 3]
    codes = {each.job: each.code for each in news if isinstance(each, Ended)}
    assert codes == {0: 7, 1: -signal.SIGKILL, 2: 1, 3: 0}
    said = [(each.job, each.text) for each in news if isinstance(each, Said)]
    assert said == [(0, "hello"), (3, "yes"), (3, os.environ["HOME"])]
    assert "OF_A_SWEEP" not in os.environ
    assert (tmp_path / "0.txt").read_text().splitlines() == ["printed hello", "to standard error"]
    assert "LookupError: nothing is here" in (tmp_path / "2.txt").read_text()
    at_once = [0]
    for each in news:
        at_once.append(at_once[-1] + isinstance(each, Started) - isinstance(each, Ended))
    assert max(at_once) == 2


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
@pytest.mark.every(2)
def test_an_interrupt_ends_what_runs_and_starts_nothing_more(tmp_path, before):
    """Also where it is ignored, as in what a shell starts in the background."""
    restored = signal.signal(signal.SIGINT, before)
    try:
        _interrupted(tmp_path)
    finally:
        signal.signal(signal.SIGINT, restored)


def _interrupted(tmp_path):
    processes = Processes(of(tmp_path, sleeps, sleeps, sleeps), 2, {})
    codes, asleep = {}, 0
    for news in processes:
        if isinstance(news, Said):
            asleep += 1
            if asleep == 2:
                processes.interrupt()
        if isinstance(news, Ended):
            codes[news.job] = news.code
    assert codes == {0: 130, 1: 130, 2: None}
    assert (tmp_path / "1.txt").read_text() == "woken\n"


def test_who_stops_listening_leaves_no_process_behind(tmp_path):
    processes = Processes(of(tmp_path, sleeps), 1, {})
    for news in processes:
        if isinstance(news, Said):
            (process, _) = processes._running[0]
            break
    del news
    processes.close()
    assert process.exitcode == -signal.SIGTERM
