"""What momentum on the server and stale deltas come to, said before a run."""

from __future__ import annotations

import math
from collections.abc import Iterator

from jax_ssp.mitigations.correlation import found
from jax_ssp.mitigations.nesterov import DelayedNesterov
from jax_ssp.runtimes.plan import Plan
from jax_ssp.runtimes.session import Session


def of_momentum(session: Session, state: object) -> Iterator[str]:
    """Where the momentum of `ssp.outer` remembers more than what it was tuned for.

    Args:
        session: the run before its first clock.
        state: of `server_tx`.
    """
    plan, workers = session.plan, session.num_workers
    known = next(found(state), None)
    if known is None or known.kept > 0:  # a rate that is kept needs no warning
        return
    momentum, rate = float(known.momentum), float(known.rate)
    if not 0.5 <= momentum < 1:  # also where it is not known
        return
    memory, least, merged = 1 / (1 - momentum), min(plan.schedule.usual), plan.policy.usual_merge
    says = f"the server's momentum of {momentum:.3g} remembers {memory:.3g} merges"
    limit = f"the effective rate comes to {rate * memory:.3g} where they all go the same way"
    remedy = 'with `ssp.outer("auto")` it stays as it is'
    # DiLoCo's 0.9 is for clocks of hundreds of steps. Where one has fewer steps than the momentum
    # has merges, what it remembers is steps from nearly the same place.
    least *= plan.num_fragments  # each has a momentum of its own, and is merged so often
    if least < memory:
        steps = "1 step" if least == 1 else f"{least} steps"
        what = "a clock has" if plan.num_fragments == 1 else "a fragment is merged every"
        yield f"{says}, and {what} {steps}: {limit}; {remedy}"
    elif merged(workers) < workers:
        yield (
            f"{says}, and a round of {workers} workers is {math.ceil(workers / merged(workers))} "
            f"of them under {type(plan.policy).__name__}: {limit}; {remedy}, and "
            "`ssp.mitigations.delayed_nesterov` turns it once a round"
        )


def of_turns(session: Session) -> Iterator[str]:
    """Where `delayed_nesterov` counts on another number of workers.

    Args:
        session: the run before its first clock.
    """
    (tx, _), workers = session.plan.transforms(), session.num_workers
    if not isinstance(tx, DelayedNesterov) or tx.buffer == workers:
        return
    if session.plan.policy.usual_merge(workers) == 1:
        yield (
            f"`delayed_nesterov(buffer={tx.buffer})` averages {tx.buffer} deltas, and turns its "
            f"momentum once in so many, and there are {workers} workers, each delta of which is "
            f"merged alone: with `buffer={workers}`, which `ssp.methods.async_local_sgd(workers="
            f"{workers})` gives, it does both once a round"
        )


def of_staleness(plan: Plan, workers: int, round_samples: int) -> Iterator[str]:
    """How old a delta may be at its merge, where local steps and a bound compound.

    Args:
        plan: of the run.
        workers: that there are.
        round_samples: examples of one synchronous step of all of them.
    """
    bound, steps = plan.policy.guaranteed_bound, max(plan.schedule.usual)
    if not bound or steps == 1 or workers == 1 or plan.optimizer_on == "server":
        return
    clocks = 2 * bound + plan.num_fragments  # which are pushed in turn, one a clock
    in_turn = f", {plan.num_fragments} fragments in turn" if plan.num_fragments > 1 else ""
    missed = clocks * steps * round_samples * (workers - 1) // workers
    yield (
        f"a delta may be merged {clocks} clocks of each other worker after what it was computed "
        f"from: {clocks * steps} local steps of each, {missed} samples of all of them (a bound of "
        f"{bound} with `local_steps={steps}`{in_turn})"
    )
