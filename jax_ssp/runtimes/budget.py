"""How much a run takes: epochs as samples, and the samples of a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jax_ssp.checks import integer, shown
from jax_ssp.data.feed import Feed
from jax_ssp.runtimes.plan import Plan, Task
from jax_ssp.worker.program import samples_in


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


def samples_of_round(plan: Plan, feeds: Sequence[Feed]) -> int:
    """The samples of one synchronous step of all workers, by the first batch of each.

    On the workers such a step takes a batch of each. With the optimizer on the server it takes all
    batches of a clock, whose gradients are one mean.
    """
    batches = 1 if plan.optimizer_on == "workers" else plan.schedule.at(0) or plan.schedule.usual[0]
    return batches * sum(samples_in(feed.peek(), 1) for feed in feeds)
