"""Where the step's optimizer lives: with each worker, or on the server.

On the server there is one state for all: a worker pushes minus the mean gradient of its clock's
batches, all of them at the same parameters, and the server gives each merge to the optimizer. With
one merge a round that is the synchronous loop over the batches of all, for every optimizer.

Reference:
    Li et al. 2014, "Scaling distributed machine learning with the parameter server", OSDI.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import optax

from jax_ssp.mitigations.as_given import AsGiven
from jax_ssp.mitigations.loss_scale import loss_scale_of
from jax_ssp.mitigations.outer import outer
from jax_ssp.rounds import ByRounds, by_rounds
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.task import Task
from jax_ssp.worker.check import check_optimizer, name_of

_BACK = 'or leave the optimizer with them: `optimizer_on="workers"`'


class _AsGiven(ByRounds, AsGiven):
    """An optimizer that the server takes wherever it goes."""


def check_placed(plan: Plan) -> None:
    """Raise ValueError if the plan has something that goes with the optimizers of workers only."""
    if plan.optimizer_on == "workers":
        return
    server_tx, _ = plan.transforms()
    if server_tx is not None:
        raise ValueError(
            '`server_tx` and `optimizer_on="server"` cannot both be given: the server applies the '
            "optimizer of the step. Chain what it is to do besides into that (`optax.chain`), "
            f"{_BACK}."
        )
    keeping = {"overlap": 0, "adopt": "rebase", "fragments": None}
    given = [name for name, usual in keeping.items() if getattr(plan, name) != usual]
    if given:
        what = f"`{given[0]}={getattr(plan, given[0])!r}`"
        raise ValueError(
            f'{what} keeps what a worker came to by itself, and with `optimizer_on="server"` it '
            f"comes to nothing but gradients; leave it out, {_BACK}."
        )


def gradients_of(plan: Plan, task: Task) -> tuple[Task, ByRounds | None]:
    """The task as the workers carry it out, and the optimizer as the server is to apply it.

    Args:
        plan: says where the optimizer lives.
        task: with the step as it was given.

    Returns:
        The task as it is, and None, where it lives on the workers.

    Raises:
        TypeError: if the step does not say what its optimizer is.
        ValueError: if the optimizer has a loss scale.
    """
    if plan.optimizer_on == "workers":
        return task, None
    step: Any = task.step
    optimizer, gradient = (getattr(step, name, None) for name in ("optimizer", "gradient"))
    if optimizer is None or not getattr(gradient, "of_gradients", False):
        raise TypeError(
            '`optimizer_on="server"` takes the optimizer from the step, and '
            f"`step={name_of(step)}` does not say what it is: make it by `ssp.make_step` or "
            "`ssp.make_nnx_step`, give it the attributes `optimizer` and `gradient` (see "
            f"`jax_ssp.worker.step.Step`), {_BACK}."
        )
    check_optimizer("step.optimizer", optimizer)
    if loss_scale_of(jax.eval_shape(step.init, task.params)) is not None:
        raise ValueError(
            '`dynamic_loss_scale` and `optimizer_on="server"` cannot both be given: the scale is '
            f"of the loss, which workers compute. Leave it out (bfloat16 needs none), {_BACK}."
        )
    # Which an `optax.MultiSteps` object is not yet, though workers take it as it is.
    transform = optax.with_extra_args_support(optimizer)
    applied = by_rounds(outer(transform, measured=False))
    if isinstance(optimizer, AsGiven):
        applied = _AsGiven(*applied)
    return replace(task, step=gradient), applied
