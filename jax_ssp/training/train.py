"""`train`: the one place where policy, server, steps, data and world are wired together."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import jax
import optax

from jax_ssp.compression import Compressor
from jax_ssp.controller import Controller
from jax_ssp.controller.contract import type_name
from jax_ssp.controller.tape import Tape
from jax_ssp.controller.weight import Weight
from jax_ssp.failures import failed, joined, never_succeeding, note, told
from jax_ssp.placement import Placement, Where
from jax_ssp.policies import SSP, Fixed, LocalSteps, Policy, as_schedule
from jax_ssp.runtimes.base import Runtime
from jax_ssp.runtimes.devices import Devices
from jax_ssp.runtimes.evaluation import EvalFn, Evaluator, Target, evaluation_device
from jax_ssp.runtimes.interrupts import current, deferring
from jax_ssp.runtimes.loop import Loop
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.observing import Observers
from jax_ssp.runtimes.session import Crew, make_crew
from jax_ssp.runtimes.watch import Watch
from jax_ssp.training.arguments import check_each, check_together
from jax_ssp.training.result import Result
from jax_ssp.worker.adopt import Adopt
from jax_ssp.worker.step import Params, Step

MOST_DELTAS = 256  # in a merge that is compiled before the start


@deferring
@never_succeeding
def train(
    step: Step | None = None,
    *,
    params: Params | None = None,
    data: Callable[[int], Iterable[Any]] | None = None,
    policy: Policy | None = None,
    runtime: Runtime | None = None,
    server_tx: optax.GradientTransformation | None = None,
    delta_tx: optax.GradientTransformation | None = None,
    num_clocks: int | None = None,
    max_updates: int | None = None,
    local_steps: int | LocalSteps = 1,
    weight: Weight = "mean",
    overlap: int = 0,
    adopt: Adopt = "rebase",
    placement: Where = None,
    delta_wire: Compressor | None = None,
    snapshot_wire: Compressor | None = None,
    seed: int = 0,
    evaluate: EvalFn | None = None,
    eval_every: int | None = None,
    evaluate_on: str | jax.Device | None = None,
    target: str | None = None,
    observers: Sequence[Observer] = (),
    name: str | None = None,
) -> Result:
    """Train under a policy, in a world.

    Args:
        step: what a worker repeats (`make_step`, `make_nnx_step`, or your own); not needed, nor
            are `params` and `data`, where the runtime computes nothing.
        params: the first version; by default the step's own `params`, if it has them.
        data: worker -> its batches, taken one a step in the order of clocks and steps, whatever
            the schedule. Where they end, that worker's part is done: it stops counting, what it
            has pushed is merged, and the others go on. Its last clock has as many steps as there
            are batches left; a smaller last batch is given to the step as it is.
        policy: by default `SSP(bound=3)`.
        runtime: by default `Devices()`, one worker on each device.
        server_tx: any optax transform on the server, called once a merge with the weighted sum of
            its deltas; by default the identity.
        delta_tx: any optax transform on the server, called for each delta as it was pushed, before
            that is weighted and summed: where what is done depends on the delta's own staleness.
        num_clocks: clocks each worker finishes.
        max_updates: ends the run once this many deltas are merged in total.
        local_steps: H, optimizer steps a clock, or a schedule of it, such as `ssp.DyLU(h=8)`.
        weight: of a delta: "mean" (1 / workers), "sum" (1), "merged" (1 / deltas of the merge; of
            own deltas that are not merged yet, 1), or a number.
        overlap: local steps of its next clock, 0 to `local_steps`, that a worker goes on for while
            its delta travels and is merged, and while it waits; then it adopts. What the policy
            decides is the same with as without. Where clocks differ in length, as under `DyLU`, no
            more than 1 step is run ahead; under a policy that cancels clocks, none.
        adopt: what becomes of those steps: "rebase" keeps their progress on top of the snapshot.
            `Mix(alpha)`, with or without overlap, sets local = alpha * local + (1 - alpha) *
            snapshot, where local is all that the worker has come to.
        placement: where the server lives: "host" (the CPU, off every accelerator's queue),
            "devices" (the parameters split over the workers' devices, merged there), or one device,
            such as "gpu:7" or a `jax.Device`. By default the host, and under `Virtual` the device
            that computes.
        delta_wire: a compressor such as `ssp.compression.Int8()`: how deltas travel. What it loses
            a worker sends with its next delta.
        snapshot_wire: the same for snapshots; the server makes up for what it loses with the next.
        seed: of the keys that steps get.
        evaluate: `params -> metrics` of a published version; `params` are a copy for it alone,
            metrics a dict of numbers.
        eval_every: clocks between evaluations; by default only the first and the last version are
            evaluated. On real devices evaluation runs beside the workers; a version that still
            waits for it when the next one is due is passed over.
        evaluate_on: where `evaluate` gets its parameters: "host" (the CPU), or one device, such as
            "gpu:7" or a `jax.Device`. By default, on accelerators, one that has no worker and is
            not the server's, so that none is slowed down; where there is none, the first worker's,
            which the host spares at its own speed.
        target: ends the run once an evaluation reaches it, such as "test_accuracy >= 0.97"; with
            it `eval_every` is 1 by default.
        observers: told what happens while it happens.
        name: of the run, for the observers.

    Returns:
        The final parameters, the tape, and what was measured. A run that was interrupted (once; a
        second Ctrl-C raises) or has diverged, so that the server's parameters are no longer finite,
        ends whole as well: see `status`. A clock whose delta is not finite does not end it if a
        transform of the server keeps that out: it is counted, in `not_finite`.

    Raises:
        ValueError: bad input, before any device computes: the message names field, value, remedy.
        TypeError: likewise.
        BaseException: whatever data, step, policy, transforms, evaluation, delay model or an
            observer raise, and a second Ctrl-C, end the run with that error. Once the workers are
            there (what fails before has trained nothing), its attribute `result` is the `Result`
            up to there, status "failed" (or "interrupted"), and a note says so.
            Only `sys.exit()` with the code of a success becomes a RuntimeError.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax, jax_ssp as ssp
        >>> def loss_fn(params, batch, key):
        ...     return (params["w"] - batch) ** 2, {}
        >>> result = ssp.train(
        ...     ssp.make_step(loss_fn, optax.sgd(0.1)),
        ...     params={"w": jnp.float32(0)},
        ...     data=lambda worker: iter([np.float32(1)] * 50),
        ...     policy=ssp.SSP(bound=2),
        ...     runtime=ssp.Virtual(num_workers=2, delay=ssp.delays.Exponential(mean=1.0)),
        ...     num_clocks=50,
        ... )
        >>> round(float(result.params["w"]), 2), result.updates
        (1.0, 100)
    """
    given = dict(locals())  # the arguments by name
    began = time.perf_counter()
    given["policy"] = SSP() if policy is None else policy
    given["runtime"] = Devices() if runtime is None else runtime
    given = check_each(given)
    check_together(given)
    policy, runtime, observers = given["policy"], given["runtime"], given["observers"]
    num_clocks, max_updates = given["num_clocks"], given["max_updates"]
    eval_every, overlap, seed = given["eval_every"], given["overlap"], given["seed"]
    schedule = as_schedule(local_steps)
    controller = Controller(
        policy,
        local_steps=schedule,
        num_clocks=num_clocks,
        max_updates=max_updates,
        weight=weight,
        grant_ahead=overlap > 0,
    )
    num_workers = runtime.count()
    policy.check(num_workers)
    experiment: dict[str, Any] = {
        "policy": describe(policy),
        "num_workers": num_workers,
        "num_clocks": num_clocks,
        "max_updates": max_updates,
        "local_steps": schedule.h if type(schedule) is Fixed else describe(schedule),
        "weight": given["weight"],
        "overlap": overlap,
        "adopt": describe(adopt),
        "delta_wire": describe(delta_wire),
        "snapshot_wire": describe(snapshot_wire),
        "seed": seed,
    }
    crew: Crew | None = None
    if runtime.computes:
        crew = make_crew(
            step,
            params,
            data,
            runtime,
            policy=policy,
            local_steps=schedule,
            weight=given["weight"],
            seed=seed,
            server_tx=server_tx,
            delta_tx=delta_tx,
            num_clocks=num_clocks,
            overlap=overlap,
            adopt=adopt,
            placement=placement,
            delta_wire=delta_wire,
            snapshot_wire=snapshot_wire,
        )
        experiment.update(crew.identity)
    header = {
        "name": name,
        "policy": repr(policy),
        "bound": policy.guaranteed_bound,
        "max_staleness": policy.guaranteed_staleness(num_workers),
        "reads_own": policy.reads_own,
        "waits_for_own": policy.waits_for_own,
        "num_workers": num_workers,
        "time": runtime.time,
        "devices": [Placement.of(worker.place).name for worker in crew.workers] if crew else [],
        "server": [Placement.of(device).name for device in crew.server.devices] if crew else [],
        "batch": runtime.batch,
        "experiment": experiment,
    }
    tape = Tape(header)
    runtime.check(tape.header)  # as JSON has it, like that of a tape it may be compared with
    evaluator = None
    if crew is not None:
        if not current().count:  # else it ends before the first clock
            ends = (num_clocks and num_clocks * num_workers, max_updates, MOST_DELTAS)
            most = min(end for end in ends if end)
            crew.server.compile(min(policy.usual_merge(num_workers), most))
        if evaluate is not None:
            goal = None if target is None else Target.parse(target)
            device = evaluation_device(given["evaluate_on"], crew, runtime.time == "wall")
            every = 1 if eval_every is None and goal is not None else eval_every
            evaluator = Evaluator(evaluate, every, device, crew.server.params, goal)
    info = {**header, "num_clocks": num_clocks, "max_updates": max_updates, "tape": tape}
    telling, held = Observers(observers), current()
    watch = Watch(lambda: loop.waits(), observers)
    server = crew.server if crew else None
    loop = Loop(
        controller, server, tape, evaluator=evaluator, observers=telling, watch=watch, held=held
    )
    error = _run(runtime, loop, crew, evaluator, telling, watch, info)

    def result() -> Result:
        params = jax.device_put(crew.server.params, crew.workers[0].device) if crew else None
        half = crew is not None and crew.server.layout.has_half
        return Result(
            params=params,
            masters=crew.server.masters if crew is not None and half else params,
            tape=tape,
            history=loop.history,
            evaluations=loop.evaluations,
            residuals=[worker.replica.residual for worker in crew.workers]
            if crew and delta_wire
            else [],
            states=crew.states() if crew else None,
            status=loop.status,
            version=controller.version if server is None else server.version,
            updates=loop.updates,
            seconds=loop.seconds,
            wall_seconds=time.perf_counter() - began,
        )

    if error is not None:
        raise _carrying(error, result)
    return result()


def _run(
    runtime: Runtime,
    loop: Loop,
    crew: Crew | None,
    evaluator: Evaluator | None,
    observers: Observers,
    watch: Watch,
    info: Mapping[str, Any],
) -> BaseException | None:
    """Run in a world to the end and close everything, whatever fails; gives what failed first."""
    closing: list[Callable[[], object]] = [watch.close]
    error: BaseException | None = None
    try:
        world = runtime.open(info["num_workers"], crew.workers if crew else ())
        closing.append(world.close)
        loop.enter(world)
        watch.start()
        world.prepare()
        if evaluator is not None:
            closing.append(evaluator.close)
            if world.clock.real:
                evaluator.go_aside(world.clock.post)
        closing.append(lambda: observers.end(loop.status))
        observers.start(info)
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


def _carrying(error: BaseException, result: Callable[[], Result]) -> BaseException:
    """An error that ended a run, with what there is of the result as its attribute `result`."""
    error = failed(error)
    try:
        kept = result()
        try:
            jax.block_until_ready(kept.params)
        except Exception as lost:
            kept = replace(kept, params=None)
            note(error, f"the parameters are lost: {told(lost)}")
    except Exception as lost:
        note(error, f"nothing is left of the run: {told(lost)}")
        return error
    try:
        error.result = kept  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:  # such as a frozen dataclass
        error, cause = RuntimeError(f"the run was ended by {told(error)}"), error
        error.__cause__ = cause
        error.result = kept  # pyright: ignore[reportAttributeAccessIssue]
    note(
        error,
        f"the run ended {kept.status} after {kept.updates} updates; this error's `.result` is the "
        f"`Result` up to there, at version {kept.version}",
    )
    return error


def describe(config: Any) -> Any:
    """A config as JSON-able facts: a dataclass as its fields, its class first."""
    if is_dataclass(config) and not isinstance(config, type):
        columns = [column.name for column in fields(config) if column.init]
        parts = {name: describe(getattr(config, name)) for name in columns}
        return {"type": type_name(type(config)), **parts}
    if isinstance(config, (list, tuple)):
        return [describe(each) for each in config]
    if isinstance(config, dict):
        return {str(name): describe(each) for name, each in config.items()}
    finite = not isinstance(config, float) or math.isfinite(config)
    if type(config) in (str, int, bool, float, type(None)) and finite:
        return config
    # Addresses differ from process to process, and a replay compares.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(config))
