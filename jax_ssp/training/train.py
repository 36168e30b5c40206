"""`train`: a run in one call, with every part an argument."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import optax

from jax_ssp.checkpoint.checkpoints import Checkpoints
from jax_ssp.checkpoint.claim import Resume
from jax_ssp.compression import Compressor
from jax_ssp.controller.weight import Weight
from jax_ssp.data.elastic import Data
from jax_ssp.fragments import Fragments
from jax_ssp.policies import SSP, LocalSteps, Policy
from jax_ssp.report.default import with_progress
from jax_ssp.runtimes.devices import Devices
from jax_ssp.runtimes.evaluation import EvalFn
from jax_ssp.runtimes.observer import Observer
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.rules import OptimizerOn
from jax_ssp.runtimes.runtime import Runtime
from jax_ssp.runtimes.task import Task
from jax_ssp.training.configured import Configured, built
from jax_ssp.training.result import Result
from jax_ssp.training.run import run
from jax_ssp.trees import Params
from jax_ssp.where import Where
from jax_ssp.worker.adopt import Adopt
from jax_ssp.worker.step import Step


def train(
    step: Step | None = None,
    *,
    params: Params | None = None,
    data: Data | None = None,
    policy: Policy | None = None,
    runtime: Runtime | None = None,
    server_tx: optax.GradientTransformation | Configured | None = None,
    delta_tx: optax.GradientTransformation | Configured | None = None,
    num_clocks: int | None = None,
    max_updates: int | None = None,
    max_steps: int | None = None,
    max_samples: int | None = None,
    num_epochs: int | None = None,
    optimizer_on: OptimizerOn = "workers",
    local_steps: int | LocalSteps = 1,
    weight: Weight = "mean",
    overlap: int = 0,
    adopt: Adopt = "rebase",
    fragments: Fragments | int | None = None,
    placement: Where = None,
    delta_wire: Compressor | None = None,
    snapshot_wire: Compressor | None = None,
    seed: int = 0,
    evaluate: EvalFn | None = None,
    eval_every: int | None = None,
    eval_waits: bool = False,
    evaluate_on: str | jax.Device | None = None,
    target: str | None = None,
    max_nonfinite: int | None = 3,
    observers: Sequence[Observer] = (),
    checkpoint: Checkpoints | None = None,
    resume: Resume = "auto",
    name: str | None = None,
    progress: bool | None = None,
) -> Result:
    """Train under a policy, in a world.

    Args:
        step: what a worker repeats (`make_step`, `make_nnx_step`, or your own); not needed, nor
            are `params` and `data`, where the runtime computes nothing.
        params: the first version; by default the step's own `params`, if it has them.
        data: worker -> its batches, taken one a step in the order of clocks and steps, whatever
            the schedule. Where they end, that worker's part is done: it stops counting, what it
            has pushed is merged, and the others go on. Its last clock has as many steps as there
            are batches left; a smaller last batch is given to the step as it is. Or a source that
            all workers share, such as `ssp.data.Epochs`: then they may come and go (see `Elastic`).
        policy: by default `SSP(bound=3)`.
        runtime: by default `Devices()`, one worker on each device.
        server_tx: any optax transform on the server, called once a merge with the weighted sum of
            its deltas; by default the identity. What `ssp.configured` gives will do, as the methods
            of `ssp.methods` have it.
        delta_tx: any optax transform on the server, called for each delta as it was pushed, before
            that is weighted and summed: where what is done depends on the delta's own staleness.
        num_clocks: clocks each worker finishes.
        max_updates: ends the run once this many deltas are merged in total.
        max_steps: the same of local steps, of all workers.
        max_samples: the same of examples. With workers of unequal speed the end is where it would
            be with equal ones: by `num_clocks` the fast ones would stop, and wait for the slow.
        num_epochs: the same of epochs of `data`, where it knows how many samples one has: `Shards`,
            `Epochs`, or whatever has an attribute `samples_per_epoch`. As workers go at their own
            speed, each may have gone through its share more or less often. Of these five one must
            be given; the first that is reached ends the run, with the merge that reaches it, which
            may go past.
        optimizer_on: where the step's optimizer lives. "workers": each has its own, and a delta is
            its steps (local SGD). "server": a delta is minus the mean gradient of a clock's batches
            and the server gives each merge to the one optimizer (a parameter server); with `BSP`
            that is the synchronous loop, whatever the optimizer. Its schedules count rounds in
            either place: a round is as many samples as one synchronous step of all workers takes.
        local_steps: H, optimizer steps a clock, or a schedule of it, such as `ssp.DyLU(h=8)`.
        weight: of a delta: "mean" (1 / workers), "sum" (1), "merged" (1 / deltas of the merge; of
            own deltas that are not merged yet, 1), "samples" or "tokens" (its share of those of the
            merge; tokens where the step says how to count them, see `make_step`), or a number.
            A policy that gives weights itself leaves no choice.
        overlap: local steps of its next clock, 0 to `local_steps`, that a worker goes on for while
            its delta travels and is merged, and while it waits; then it adopts. What the policy
            decides is the same with as without. Where clocks differ in length, as under `DyLU`, no
            more than 1 step is run ahead; under a policy that cancels clocks, none.
        adopt: what becomes of those steps: "rebase" keeps their progress on top of the snapshot.
            `Mix(alpha)`, with or without overlap, sets local = alpha * local + (1 - alpha) *
            snapshot, where local is all that the worker has come to.
        fragments: shares of the parameters that travel in turn (see `ssp.Fragments`), or how many
            of about the same size: each clock pushes one and adopts that one, and the worker keeps
            its progress in the others. The server has a state of its transforms for each, and
            staleness is counted in versions of the fragment. What is not pushed when the run ends
            is lost, so let `num_clocks` be many times their number. By default all travels at once.
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
        eval_waits: whether nobody starts a clock while a version is evaluated, on real devices too.
            None is passed over then, and what follows from an evaluation (`target`, `EarlyStop`)
            comes at the same version in every world, where the same versions are made.
        evaluate_on: where `evaluate` gets its parameters: "host" (the CPU), or one device, such as
            "gpu:7" or a `jax.Device`. By default, on accelerators, one that has no worker and is
            not the server's, so that none is slowed down; where there is none, the first worker's,
            which the host spares at its own speed.
        target: ends the run once an evaluation reaches it, such as "test_accuracy >= 0.97"; with
            it `eval_every` is 1 by default.
        max_nonfinite: ends the run, as diverged, once so many deltas of one worker in a row are not
            finite; 0 with the first one, None never. None of them is merged: each is dropped and
            counted (in `not_finite`), and its worker goes on from a snapshot, with a new state of
            the step if that is not finite either.
        observers: told what happens while it happens, and who may end the run: `ssp.Ema`,
            `ssp.Best`, `ssp.EarlyStop`, loggers, or your own.
        checkpoint: when to save the whole state, such as `ssp.Checkpoints("runs/mine",
            every="60s")`, so that the run can be resumed: it has a folder then, as by
            `ssp.RunFolder`. SIGTERM (where nobody else takes it) then saves the run, and ends the
            process with 75 for "run me again", or 130 if there is no checkpoint yet.
        resume: what to do with a run that the folder of this one holds (`ssp.RunFolder`). "auto"
            goes on with one that was killed, interrupted or failed, if it is the same experiment;
            its ends may be raised, also those of one that is done. "never" refuses a folder that
            holds a run, "must" one that holds none. Another experiment is refused by the
            difference.
        name: of the run, for the observers.
        progress: shows how far the run is, as `ssp.Progress` does: True shows it, False does not,
            and None shows it in a notebook and where standard error is a terminal, if something is
            computed, and the run is in the main thread of the main process. One among the observers
            is enough.

    Returns:
        The final parameters, the tape, and what was measured. A run that was interrupted (once; a
        second Ctrl-C raises) or has diverged, by `max_nonfinite` or since the server's parameters
        are no longer finite, ends whole as well: see `status` and `reason`.

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
    given = dict(locals())  # all arguments; each is a field of the plan, but for seven
    task = Task(step, params, data, evaluate)
    for other in ("step", "params", "data", "evaluate", "observers", "resume", "progress"):
        del given[other]
    given |= {name: built(given[name]) for name in ("server_tx", "delta_tx")}
    given["policy"] = SSP() if policy is None else policy
    given["runtime"] = Devices() if runtime is None else runtime
    watching = with_progress(observers, progress, given["runtime"])
    return run(Plan(**given), task, watching, resume)
