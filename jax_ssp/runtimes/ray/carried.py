"""A run that is carried out in the actor of its controller: sent, waited for, and made again.

    result = carried_out(run, plan, task, observers, resume)

Should the actor's process end, it is made again, if the run has checkpoints: it does then what the
same command does that is run again. The other actors are its own, and end with it.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import jax

from jax_ssp.checkpoint.lent import Lent, lend
from jax_ssp.checkpoint.run_folder import RunFolder
from jax_ssp.failures import AGAIN, in_words, joined
from jax_ssp.files import say
from jax_ssp.placement import Placement
from jax_ssp.runtimes.interrupts import current, terminable
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.observing import Observers, overrides
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.ray.actors import stored
from jax_ssp.runtimes.ray.calls import Actor, LostActor, first_line, got, is_there
from jax_ssp.runtimes.ray.cluster import beside_driver, connect
from jax_ssp.runtimes.ray.driver import Process
from jax_ssp.runtimes.ray.head import Head, Over, Whole, dumped, restored
from jax_ssp.runtimes.ray.hearing import Hearing
from jax_ssp.runtimes.ray.pool import keep, make_room, new_actor
from jax_ssp.runtimes.ray.sent import settings

LOOK_SECONDS = 0.1  # between two looks at what is to be told, and at signals
ENDING_SECONDS = 10.0  # for a run whose user insists on its end to give what there is of it

RELAYED = ("on_entry", "on_clock", "on_eval", "on_wait")
NOT_RELAYED = ("on_version", "on_evaluated", "check_evaluation", "kept", "get_state", "set_state")


class LostController(RuntimeError):
    """The process of a run's controller has ended, and is not made again.

    Attributes:
        exit_code: of a process that ends with it: run it again.
    """

    exit_code = AGAIN


def carried_out(
    run: Callable[..., Any], plan: Plan, task: Any, observers: Sequence[Observer], resume: str
) -> Any:
    """Have a run carried out in an actor; see `Runtime.carry_out` for what is given.

    Raises:
        TypeError: naming what cannot be sent there.
        ValueError: if an observer is to stay here which cannot.
        LostController: if the actor's process has ended too often, or the run has no checkpoints.
        BaseException: what is raised there.
    """
    waits = Waits(observers)
    try:
        return waits.settled(_over(waits, run, plan, task, resume))
    except BaseException as error:
        waits.broken_off("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise


def _over(waits: Waits, run: Callable[..., Any], plan: Plan, task: Any, resume: str) -> Over:
    """What has become of a run that is carried out in an actor, whose process may have to be made
    several times."""
    runtime: Any = plan.runtime
    saves, lives = plan.checkpoint is not None, 0
    with terminable() if saves else nullcontext(lambda: False) as terminated:
        there = connect(runtime.address, runtime.working_dir)
        alone = runtime.address is None
        options = {"num_cpus": 0} if alone else {"num_cpus": 0, **beside_driver()}
        # Its workers rest with it; those for which something is reserved are to let go of that.
        rests = alone and not any(runtime.worker_options(there).values())
        if not rests:
            make_room()
        sent = [waits.sent(run, plan, task)]
        while True:
            head = new_actor(Head, (Process.of(os.getpid()),), options, alone)
            head.what = "the controller"
            try:
                call = head.call("run", settings(), sent, runtime.working_dir, resume)
                over = waits.over(head, call, terminated)
                if rests:
                    keep(head, head.call("rest"))
                return over
            except LostActor as error:
                head.kill()  # should it be there still
                lives, resume = lives + 1, "auto"
                waits.pause(plan, lives, error)
            finally:
                if not head.killed:
                    head.kill()


class Waits:
    """Waits for a run that is carried out elsewhere.

    Args:
        observers: of the run.

    Raises:
        ValueError: if one is to stay here, and is to be told what is not.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        stay = [each for each in observers if each.stays]
        for each in stay:
            each.check()
            _check_stays(each)
        self._folders = [each for each in stay if isinstance(each, RunFolder)]
        self._travel = [each for each in observers if not each.stays]
        self._stay = Observers(stay)
        own = [each for each in stay if each not in self._folders]
        self._evaluates = any(each.needs_evaluation for each in own)
        heard = [name for name in RELAYED if any(overrides(each, name) for each in own)]
        self._heard = frozenset(heard)
        self._error: BaseException | None = None  # of one that stays
        self._began = time.perf_counter()

    def sent(self, run: Callable[..., Any], plan: Plan, task: Any) -> Any:
        """A reference to the run; its folders are nobody's from now on, but the actor's."""
        lent = [Lent.of(each) for each in self._folders]
        heard, evaluates = self._heard, self._evaluates
        whole = Whole(run, plan, task, self._travel, lent, heard, evaluates, os.getcwd())
        try:
            reference = stored(whole)
        except TypeError:
            for each in self._travel:
                _check_travels(each)
            raise
        for folder in self._folders:
            lend(folder)
        return reference

    def over(self, head: Actor, call: Any, terminated: Callable[[], bool]) -> Over:
        """What has become of the run, once it is over: signals are passed on to it till then.

        Args:
            head: the actor that carries it out.
            call: a reference to what it gives.
            terminated: whether a signal that came is a SIGTERM that the run has taken.

        Raises:
            LostActor: if its process has ended.
            KeyboardInterrupt: if the user insists, and the run gives nothing in time.
        """
        held, passed, hearing = current(), 0, Hearing(head)

        def pass_on() -> None:
            nonlocal passed
            for _ in range(passed, held.count):
                number = signal.SIGTERM if terminated() else signal.SIGINT
                head.call("signal", int(number), beside=True)
            passed = held.count

        try:
            while not is_there(call, LOOK_SECONDS):
                pass_on()
                held.check()
                self._tell(hearing.heard(), head)
        except KeyboardInterrupt:
            pass_on()
            if not is_there(call, ENDING_SECONDS):
                raise
        packed = got(call, head.what)
        self._tell(hearing.rest(), None)
        with jax.default_device(Placement.host().device):
            over: Over = pickle.loads(packed)
        self._tell(over.heard, None)
        return over

    def _tell(self, heard: Sequence[Any], head: Actor | None) -> None:
        """Tell those who stay; one that raises has the run end, with its error."""

        def ask(reason: str) -> None:
            if head is not None:
                head.call("ask", reason, beside=True)

        for method, what in heard:
            try:
                if method == "on_start":
                    self._stay.start(*what, ask)
                elif method == "on_end":
                    self._stay.end(*what)
                else:
                    self._stay.tell(method, *what)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # raised once the run is over
                self._error = error if self._error is None else joined(self._error, error)
                ask(f"an observer has failed: {in_words(error)}"[:200])

    def pause(self, plan: Plan, lives: int, lost: LostActor) -> None:
        """The actor's process has ended: wait as long as there is to be none.

        Raises:
            LostController: if there is to be no other.
        """
        recovery, what = getattr(plan.runtime, "recovery", None), first_line(lost).rstrip(".")
        if plan.checkpoint is None:
            remedy = (
                "The run has no checkpoints, so it is lost: run it again, and with "
                "`checkpoint=ssp.Checkpoints(folder)` it survives that."
            )
        elif recovery is None or lives > recovery.restarts:
            often = 0 if recovery is None else recovery.restarts
            remedy = (
                f"It is made again {often} times at most (`recovery`): run the same again, and it "
                "goes on from the newest checkpoint."
            )
        else:
            say(f"{what}: it is made again, and goes on from the newest checkpoint")
            time.sleep(recovery.pause(lives))
            return
        error = LostController(f"{what}. {remedy}")
        raise error from lost if self._error is None else joined(error, self._error)

    def broken_off(self, status: str) -> None:
        """Tell those who stay that the run has ended, if they do not know."""
        self._tell([("on_end", (status,))], None)

    def settled(self, over: Over) -> Any:
        """The result, once all know of it.

        Raises:
            BaseException: what the run was ended by, with what there is of the result.
        """
        for folder, said in zip(self._folders, over.folders, strict=False):
            vars(folder).update(said)
        with jax.default_device(Placement.host().device):
            restored(self._travel, over.observers)
        error = None if over.failure is None else over.failure.here()
        if self._error is not None:
            error = self._error if error is None else joined(self._error, error)
        result = over.result
        if result is not None:
            result = replace(result, wall_seconds=time.perf_counter() - self._began)
            try:
                self._stay.tell("on_result", result, error)
            except BaseException as raised:  # given back
                error = raised if error is None else joined(error, raised)
        if error is None:
            return result
        with suppress(Exception):
            error.result = result  # pyright: ignore[reportAttributeAccessIssue]
        raise error


def _check_stays(observer: Observer) -> None:
    """Raise ValueError if one is to stay here that is to be told, or asked, what it cannot be."""
    own = [name for name in NOT_RELAYED if overrides(observer, name)]
    if own:
        raise ValueError(
            f"`{type(observer).__name__}` stays where `train` is called (`stays = True`), and with "
            f'`Ray(controller="actor")` the run is elsewhere: there `{own[0]}` cannot be had. Let '
            "it travel (`stays = False`), or leave `controller` out."
        )


def _check_travels(observer: Observer) -> None:
    """Raise TypeError if one cannot be sent to another process."""
    try:
        dumped(observer)
    except Exception as error:
        raise TypeError(
            f"`{type(observer).__name__}` is told in the controller's process, with "
            f'`Ray(controller="actor")`, and cannot be sent there: {first_line(error)}. Make what '
            "cannot be pickled in `on_start`, or have it stay here (`stays = True`)."
        ) from error
