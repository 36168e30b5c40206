"""Who is looked at for a hang: what a look passes over, and what comes too late for anybody."""

from types import SimpleNamespace

import pytest

from jax_ssp.controller import Controller
from jax_ssp.controller.commands import StartClock
from jax_ssp.controller.events import Token
from jax_ssp.controller.tape import Tape
from jax_ssp.policies import BSP
from jax_ssp.runtimes import looks
from jax_ssp.runtimes.comebacks import Comebacks
from jax_ssp.runtimes.crew import COMPILES
from jax_ssp.runtimes.looks import Looks
from jax_ssp.runtimes.loop import Loop


def start(worker, grant):
    return StartClock(worker, grant, 1, 0, (), 2, 0.5, Token(0, grant))


def looked(monkeypatch, what, excused=False):
    """Who hangs, where worker 0 does the same for 3 s and may for 1, and worker 1 goes on."""
    doing = None if what is None else (what, 0.0, 1e9)
    about = {"joined": True, "gone": False, "doing": doing}
    stays = [SimpleNamespace(index=index, runs=start(index, index), **about) for index in (0, 1)]
    mine, now = Looks(SimpleNamespace(stays=stays), deadline=1.0), 0.0
    while now < 3.0:
        monkeypatch.setattr(looks.time, "monotonic", lambda now=now: now)
        stays[1].runs = start(1, 2 + int(10 * now))
        found = mine.look(excused)
        if found is not None:
            return found[0].index
        now += 0.25
    return None


@pytest.mark.parametrize(
    ("what", "excused", "hangs"),
    [("computes clock 0", False, 0), (None, False, 0), (COMPILES, False, None), (None, True, None)],
)
def test_nobody_hangs_who_compiles_or_while_the_run_evaluates(monkeypatch, what, excused, hangs):
    assert looked(monkeypatch, what, excused) == hangs


def test_a_world_is_told_when_the_run_evaluates(monkeypatch):
    loop = Loop(Controller(BSP()), None, Tape({}))
    world = SimpleNamespace(clock=SimpleNamespace(), executor=SimpleNamespace())
    loop.enter(world)
    assert not world.executor.excused()
    monkeypatch.setattr(loop.evaluating, "waits", lambda: ["the evaluation"])
    assert world.executor.excused()


def test_who_has_come_to_the_end_of_its_clock_meanwhile_is_not_lost():
    stay = SimpleNamespace(index=0, gone=False, runs=start(0, 8))
    assert list(Comebacks._losing(None, stay, "hang: it hangs", True, start(0, 7))) == []


@pytest.mark.parametrize("on_host", [True, False])
def test_who_hangs_on_an_accelerator_does_not_come_again_there(monkeypatch, on_host):
    place = SimpleNamespace(of=lambda device: SimpleNamespace(on_host=on_host))
    monkeypatch.setattr(looks, "Placement", place)
    worker = SimpleNamespace(waits=lambda: None, device="of this kind")
    stay = SimpleNamespace(worker=worker, waits=lambda: None)
    reason, again = looks.told_of(stay)
    assert (reason.startswith("hang: it hangs"), again) == (True, on_host)
    assert reason.endswith("it does not come again") is not on_host
