"""How much a run takes: epochs as samples, and the samples of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jax_ssp.checks import integer, shown
from jax_ssp.data.feed import Feed
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.task import Task
from jax_ssp.worker.program import samples_in, tokens_in


def check_countable(plan: Plan) -> None:
    """Raise ValueError if a run that computes nothing is to end by samples: there are none."""
    for name in ("max_samples", "num_epochs"):
        if getattr(plan, name) is not None:
            raise ValueError(
                f"`{name}={getattr(plan, name)}` counts the examples in batches, and the runtime "
                "runs the clockwork alone, without any; give `max_steps` or `max_updates`."
            )


def in_samples(plan: Plan, task: Task) -> Plan:
    """The plan with its `num_epochs` as samples too, or as it is where there are none.

    Raises:
        TypeError, ValueError: if the data does not say how many samples are in an epoch.
    """
    epochs, data = plan.num_epochs, task.data
    if epochs is None:
        return plan
    size = getattr(data, "samples_per_epoch", None)
    if size is None:
        raise ValueError(
            f"`num_epochs={epochs}` needs to know how many samples are in an epoch, and "
            f"`data={shown(data)}` does not say: use `ssp.data.Shards`, give `data` an attribute "
            "`samples_per_epoch`, or give `max_samples`."
        )
    size = integer("data.samples_per_epoch", size, least=1)
    samples = epochs * size
    return replace(plan, max_samples=min(samples, plan.max_samples or samples))


def check_weight_is_free(plan: Plan) -> None:
    """Raise ValueError if the run says weights that its policy gives itself."""
    if plan.policy.gives_weights and plan.weight != "mean":
        raise ValueError(
            f"`weight={plan.weight!r}`, but {type(plan.policy).__name__} gives the weights of a "
            'merge itself; leave `weight` at "mean".'
        )


def check_counts(plan: Plan, step: Any, feeds: Sequence[Feed]) -> None:
    """Raise if tokens are to be counted and cannot be: tried on the first batch of each worker."""
    if plan.weight == "tokens" and getattr(step, "tokens", None) is None:
        raise ValueError(
            '`weight="tokens"` needs to know how many tokens are in a batch, and the step does not '
            "say: `ssp.make_step(..., tokens=lambda batch: batch.size)`, or a method `tokens` of "
            'your own step; or use `weight="samples"`.'
        )
    for feed in feeds:
        tokens_in(step, feed.peek(), 1)


def samples_of_round(plan: Plan, feeds: Sequence[Feed]) -> int:
    """The samples of one synchronous step of all workers, by the first batch of each.

    On the workers such a step takes a batch of each. With the optimizer on the server it takes all
    batches of a clock, whose gradients are one mean.
    """
    batches = 1 if plan.optimizer_on == "workers" else plan.schedule.at(0) or plan.schedule.usual[0]
    return batches * sum(samples_in(feed.peek(), 1) for feed in feeds)
