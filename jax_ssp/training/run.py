"""A run, for `train` and `Experiment.run`: session and world are made, and the loop runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict

from jax_ssp.checkpoint.claim import RESUME, Resume
from jax_ssp.checkpoint.keeper import FolderKeeper
from jax_ssp.checks import choice
from jax_ssp.controller import Controller
from jax_ssp.controller.tape import Tape
from jax_ssp.failures import joined, never_succeeding
from jax_ssp.placement import Placement
from jax_ssp.runtimes.bad_numbers import BadNumbers
from jax_ssp.runtimes.dealing import dealing
from jax_ssp.runtimes.evaluation import Evaluator, Target, evaluation_device
from jax_ssp.runtimes.faults.told import check_no_saves
from jax_ssp.runtimes.interrupts import current, deferring, terminable
from jax_ssp.runtimes.loop import Loop
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.observing import Observers
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.resuming import Keeper, Resuming, Unfinished
from jax_ssp.runtimes.rules import observers as check_observers
from jax_ssp.runtimes.server_hyperparameters import ServerHyperparameters
from jax_ssp.runtimes.session import Session, make_session
from jax_ssp.runtimes.task import Task
from jax_ssp.runtimes.watch import Watch
from jax_ssp.training.carrying import carrying
from jax_ssp.training.folders import blaming, ended_by_sigterm, kept_in_folder
from jax_ssp.training.remarks import remarks
from jax_ssp.training.result import Result
from jax_ssp.where import leaving_mesh
from jax_ssp.worker.adopt import Mix

MOST_DELTAS = 256  # in a merge that is compiled before the start


@deferring
@never_succeeding
def run(
    plan: Plan,
    task: Task,
    observers: Sequence[Observer] = (),
    resume: Resume = "auto",
    keeper: Keeper | None = None,
) -> Result:
    """Run a plan on a task, to its end; see `train` for what is given and raised.

    Args:
        plan: what the run is.
        task: what is trained; a `Task()` where nothing is computed.
        observers: told what happens while it happens.
        resume: whether to go on with the run that their `RunFolder` holds.
        keeper: gives what is left of the run if it is to go on, and saves it while it goes; by
            default that of their `RunFolder`.
    """
    plan = plan.checked()
    observers = (*plan.own_observers(), *check_observers("observers", observers))
    resume = choice("resume", resume, RESUME)
    if keeper is None and plan.checkpoint is None:
        check_no_saves(plan.runtime.faults)
    if keeper is not None:
        return _carried_out(plan, task, observers, resume, keeper)
    return plan.runtime.carry_out(_carried_out, plan.unwatched(), task, observers, resume)


def _carried_out(
    plan: Plan,
    task: Task,
    observers: Sequence[Observer],
    resume: Resume,
    keeper: Keeper | None = None,
) -> Result:
    """Run a plan in this process, in its folder, told by signals when it is to end."""
    with leaving_mesh(), ExitStack() as until:
        if keeper is None:
            observers, keeper = kept_in_folder(plan, observers, resume, until)
        _check(observers, plan, task)
        if isinstance(keeper, FolderKeeper):
            until.enter_context(blaming(keeper))
        if not isinstance(keeper, FolderKeeper) or not keeper.saves:
            return _trained(plan, task, observers, keeper)
        terminated = until.enter_context(terminable())
        try:
            result = _trained(plan, task, observers, keeper)
        except KeyboardInterrupt as error:
            if not terminated():
                raise
            raise ended_by_sigterm(keeper.path, getattr(error, "result", None)) from error
        if terminated():
            raise ended_by_sigterm(keeper.path, result)
        return result


def _trained(
    plan: Plan, task: Task, observers: Sequence[Observer], keeper: Keeper | None
) -> Result:
    """Run a plan, of which all is known."""
    began = time.perf_counter()
    session = make_session(plan, task, None if keeper is None else keeper.tape())
    with closing(session):
        return _trained_by(session, task, observers, keeper, began)


def _trained_by(
    session: Session,
    task: Task,
    observers: Sequence[Observer],
    keeper: Keeper | None,
    began: float,
) -> Result:
    """Run a session, of the task as it was given; that was begun then (`time.perf_counter`)."""
    plan = session.plan
    tape, past = _tape(session, keeper)
    if not current().count:  # else it ends before the first clock
        _compile(session)
    evaluator = _evaluator(session, observers)
    telling, watch = Observers(observers), Watch(lambda: loop.waits(), observers)
    loop = Loop(
        _controller(session, past),
        session.store,
        tape,
        evaluator=evaluator,
        observers=telling,
        watch=watch,
        held=current(),
        hyperparameters=ServerHyperparameters(session.store, plan.optimizer_on == "server"),
    )
    layout = None if session.store is None else session.store.layout
    loop.bad_numbers = BadNumbers.of(plan.max_nonfinite, session.workers, layout)
    loop.donates = plan.runtime.donates(progress=isinstance(plan.adopt, Mix))
    loop.dealing = dealing(session.ledger, tape.header)
    said = remarks(session, task)
    error = _run(session, loop, evaluator, telling, watch, said, past, keeper)

    def result() -> Result:
        return _result(session, loop, telling, said, time.perf_counter() - began)

    if error is not None:
        raise carrying(error, result, telling)
    kept = result()
    try:
        telling.tell("on_result", kept, None)
    except BaseException as raised:
        raise carrying(raised, lambda: kept) from None
    return kept


def _tape(session: Session, keeper: Keeper | None) -> tuple[Tape, Unfinished | None]:
    """The tape before its first row, and what there is of a run that goes on."""
    tape = Tape(session.header())
    session.plan.runtime.check(tape.header)  # as JSON has it, like that of a tape to compare with
    past = None if keeper is None else keeper.past(tape.header)
    if past is None or not len(past.tape):  # nothing has happened yet
        return tape, None
    return Tape(past.tape.header), past


def _controller(session: Session, past: Unfinished | None) -> Controller:
    """The controller before its first event; of a run that goes on, with the ends it then had."""
    plan, round_samples = session.plan, session.round_samples
    if past is not None:
        round_samples = past.tape.header.get("round_samples", round_samples)
    return Controller(
        plan.policy,
        ends=plan.runtime.first_ends(plan.ends) if past is None else past.first_ends,
        local_steps=plan.schedule,
        weight=plan.weight,
        grant_ahead=plan.overlap > 0,
        reads_own=plan.reads_own,
        round_samples=round_samples,
        fragments=plan.num_fragments,
    )


def _compile(session: Session) -> None:
    """Compile the merges that are to be expected."""
    plan, workers = session.plan, session.num_workers
    if session.store is not None:
        usual = min(plan.policy.usual_merge(workers), MOST_DELTAS)
        # No end by a total makes a merge smaller: it is with a whole merge that the run ends.
        all_of_them = usual if plan.num_clocks is None else plan.num_clocks * workers
        session.store.compile(min(usual, all_of_them))


def _check(observers: Sequence[Observer], plan: Plan, task: Task) -> None:
    """Raise what is wrong with observers, before any device is touched."""
    for each in observers:
        each.check()
        if each.needs_evaluation and task.evaluate is None and plan.runtime.computes:
            name = type(each).__name__
            raise ValueError(f"`{name}` needs `evaluate`, a function params -> metrics.")


def _evaluator(session: Session, observers: Sequence[Observer]) -> Evaluator | None:
    """What evaluates, the first version at once; None where nobody asks for it."""
    plan, store, evaluate = session.plan, session.store, session.task.evaluate
    if store is None or evaluate is None:
        return None
    goal = None if plan.target is None else Target.parse(plan.target)
    often = goal is not None or any(each.needs_evaluation for each in observers)
    every = 1 if plan.eval_every is None and often else plan.eval_every
    busy = [worker.device for worker in session.workers]
    aside = plan.runtime.time == "wall" and not plan.eval_waits
    device = evaluation_device(plan.evaluate_on, busy, store.devices, aside)
    evaluator = Evaluator(evaluate, every, device, store, goal)
    for each in observers:
        each.check_evaluation(dict(evaluator.first["metrics"]))
    return evaluator


def _run(
    session: Session,
    loop: Loop,
    evaluator: Evaluator | None,
    observers: Observers,
    watch: Watch,
    said: list[str],
    past: Unfinished | None,
    keeper: Keeper | None,
) -> BaseException | None:
    """Run in a world to the end and close everything, whatever fails; gives what failed first."""
    plan, header = session.plan, loop.tape.header
    ends = {**asdict(plan.ends), "num_epochs": plan.num_epochs}
    closing: list[Callable[[], object]] = [watch.close]
    error: BaseException | None = None
    try:
        world = plan.runtime.open(session)
        closing.append(world.close)
        loop.saving = None if keeper is None else keeper.saving(world.fates.save)
        loop.enter(world)
        watch.start()
        world.prepare(goes_on=past is not None)
        if evaluator is not None:
            closing.append(evaluator.close)
            if world.clock.real and not plan.eval_waits:
                evaluator.go_aside(world.clock.post)
        closing.append(lambda: observers.end(loop.status))
        if keeper is not None:
            closing.append(keeper.close)
        observers.start({**header, **ends, "tape": loop.tape, "remarks": said}, loop.end_early)
        if past is None:
            loop.begin()
        else:
            Resuming(loop, past, session.workers, session.welcome).run()
        loop.run()
    except BaseException as raised:  # given back
        error = raised
        loop.fail(error)
    for close in reversed(closing):
        try:
            close()
        except BaseException as raised:  # given back
            error = raised if error is None else joined(error, raised)
    return error


def _result(
    session: Session, loop: Loop, observers: Observers, said: list[str], wall_seconds: float
) -> Result:
    """What there is by now."""
    workers, store, params, masters = session.workers, session.store, None, None
    if store is not None:
        params = Placement.of(workers[0].device).put(store.params)
        masters = store.masters if store.layout.has_half else params
    wire = session.plan.delta_wire
    return Result(
        params=params,
        masters=masters,
        tape=loop.tape,
        history=loop.history,
        evaluations=loop.evaluations,
        residuals=[] if wire is None else [worker.replica.residual for worker in workers],
        states=session.states(),
        kept=observers.kept,
        status=loop.status,
        version=loop.controller.version if store is None else store.version,
        **loop.totals._asdict(),
        seconds=loop.seconds,
        wall_seconds=wall_seconds,
        said=said,
    )
