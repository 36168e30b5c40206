"""What a tape's header says of its run, and what follows from it.

A header is believed as little as the rows. What the policy promises (bound, staleness, own reads,
cancelled clocks) is taken from the policy itself, made anew from the fields that are recorded, and
a header that says otherwise is refused. Only for a policy that is not one of ours what the header
declares has to do; then the report says so. A header made by hand may be short: what it lacks is
not checked.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jax_ssp.controller.ends import Ends
from jax_ssp.controller.header import check_header
from jax_ssp.controller.weight import Weight
from jax_ssp.policies import ALL_POLICIES, ALL_SCHEDULES, Fixed, LocalSteps, Policy
from jax_ssp.records import short


@dataclass(frozen=True)
class Facts:
    """What a run has to keep; None where its header does not say.

    Attributes:
        bound: s (clocks); None also where the policy has none.
        max_staleness: of a merged delta (versions); None also where the policy has none.
        reads_own: whether workers read their own deltas while these wait.
        waits_for_own: whether workers wait until their own deltas are settled.
        gives_weights: whether the policy says the weights of a merge, not the rule.
        policy: where it is one of ours.
        schedule: of the local steps, where it is one of ours.
        num_workers: that begin the run.
        max_workers: that ever join.
        ends: the counts that end the run.
        local_steps: H, where that is fixed.
        weight: of a delta.
        overlap: local steps run ahead.
        round_samples: examples of a round; 0 where nothing is computed.
        fragments: of the parameters.
    """

    bound: int | None
    max_staleness: int | None
    reads_own: bool
    waits_for_own: bool
    gives_weights: bool
    policy: Policy | None
    schedule: LocalSteps | None = None
    num_workers: int | None = None
    max_workers: int | None = None
    ends: Ends | None = None
    local_steps: int | None = None
    weight: Weight | None = None
    overlap: int | None = None
    round_samples: int | None = None
    fragments: int = 1

    @property
    def may_cancel(self) -> bool:
        """Whether clocks may be cancelled, for all that is known."""
        return self.policy is None or self.policy.cancels

    @property
    def may_norm(self) -> bool:
        """Whether pushes may report norms, for all that is known."""
        return self.policy is None or self.policy.needs_norms

    @property
    def may_choose(self) -> bool:
        """Whether the policy may drop deltas or set timers, for all that is known.

        Only a `ready` of its own can.
        """
        return self.policy is None or type(self.policy).ready is not Policy.ready


def facts_of(header: Mapping[str, Any], kinds: Sequence[type[Any]] = ()) -> Facts:
    """What follows from a header.

    Args:
        header: of a tape.
        kinds: classes of policies and schedules that are known beside ours.

    Raises:
        ValueError: if it contradicts itself, or its policy.
    """
    check_header(header)
    experiment: Mapping[str, Any] = header.get("experiment", {})
    policy = _policy_of(header, experiment, kinds)
    schedule, fixed = _steps_of(experiment, kinds)
    own_steps = policy is not None and type(policy).local_steps is not Policy.local_steps
    num_workers = header.get("num_workers", experiment.get("num_workers"))
    return Facts(
        *_promised(header, experiment, policy),
        policy,
        schedule=schedule,
        num_workers=num_workers,
        max_workers=header.get("max_workers", num_workers),
        ends=_ends_of(experiment),
        local_steps=None if own_steps else fixed,
        weight=experiment.get("weight"),
        overlap=experiment.get("overlap"),
        round_samples=header.get("round_samples"),
        fragments=(experiment.get("fragments") or {"number": 1})["number"],
    )


def _ends_of(experiment: Mapping[str, Any]) -> Ends | None:
    names = [column.name for column in fields(Ends)]
    if not all(name in experiment for name in names):
        return None
    return Ends.of(experiment)


def _steps_of(
    experiment: Mapping[str, Any], kinds: Sequence[type[Any]]
) -> tuple[LocalSteps | None, int | None]:
    """The schedule of local steps, if it is one that is known, and H where that is fixed."""
    steps = experiment.get("local_steps")
    if steps is None:
        return None, None
    if isinstance(steps, int):
        return Fixed(steps), steps
    return _made((*ALL_SCHEDULES, *kinds), steps, "local_steps"), None


def type_name(kind: type[Any]) -> str:
    """The name by which a header knows a class: a class of the user's never has that of ours.

    Example:
        >>> class SSP(Policy): ...
        >>> type_name(SSP) == f"{__name__}.SSP", type_name(Fixed)
        (True, 'Fixed')
    """
    ours = {each.__name__: each for each in (*ALL_POLICIES, *ALL_SCHEDULES)}
    name = kind.__name__
    return name if ours.get(name, kind) is kind else f"{kind.__module__}.{name}"


def _policy_of(
    header: Mapping[str, Any], experiment: Mapping[str, Any], kinds: Sequence[type[Any]]
) -> Policy | None:
    """The policy of a run, if it is one that is known."""
    written, recorded = header.get("policy"), experiment.get("policy")
    if recorded is None:
        return None if written is None else _of_text(written)
    policy = _made((*ALL_POLICIES, *kinds), recorded, "policy")
    if written is None:
        return policy
    if policy is None:
        # One of the user's may have the name of one of ours; its type then has a module before it.
        name = written.partition("(")[0]
        ours = any(kind.__name__ == name for kind in ALL_POLICIES)
        agree = not ours or recorded["type"].endswith(f".{name}")
    else:
        agree = written == repr(policy)
    if not agree:
        told = short(recorded)
        raise ValueError(f"the header says policy {short(written)}, and {told} in `experiment`.")
    return policy


def _promised(
    header: Mapping[str, Any], experiment: Mapping[str, Any], policy: Policy | None
) -> tuple[int | None, int | None, bool, bool, bool]:
    """Bound, largest staleness, what of their own deltas workers read and wait for, and whether the
    policy gives weights.

    By the policy where it is one of ours, else as the header declares; where the optimizer is on
    the server, deltas are gradients, and nobody reads its own.
    """
    bound, staleness = header.get("bound"), header.get("max_staleness")
    waits, gives = header.get("waits_for_own", False), header.get("gives_weights", False)
    on_workers = experiment.get("optimizer_on", "workers") == "workers"
    reads_own = header.get("reads_own", on_workers)
    if reads_own and not on_workers:
        raise ValueError(
            "the header says reads_own true, but the optimizer is on the server, where it is false."
        )
    if policy is None:
        return bound, staleness, reads_own, waits, gives
    by_policy: dict[str, Any] = {
        "bound": policy.guaranteed_bound,
        "reads_own": policy.reads_own and on_workers,
        "waits_for_own": policy.waits_for_own,
        "gives_weights": policy.gives_weights,
    }
    if "num_workers" in header:
        by_policy["max_staleness"] = policy.guaranteed_staleness(header["num_workers"])
    for key, value in by_policy.items():
        if key in header and header[key] != value:
            raise ValueError(
                f"the header says {key} {short(header[key])}, but by {policy} it is {value}."
            )
    return (
        by_policy["bound"],
        by_policy.get("max_staleness", staleness),
        by_policy["reads_own"],
        by_policy["waits_for_own"],
        by_policy["gives_weights"],
    )


def _made(kinds: Sequence[type[Any]], recorded: Mapping[str, Any], what: str) -> Any:
    """A part, made from its recorded fields and checked by itself; None if it is not known."""
    kind = next((each for each in kinds if type_name(each) == recorded["type"]), None)
    if kind is None:
        if any(each.__name__ == recorded["type"] for each in (*ALL_POLICIES, *ALL_SCHEDULES)):
            raise ValueError(f"the header's {what} cannot be {short(recorded)}.")
        return None
    given = {name: value for name, value in recorded.items() if name != "type"}
    names = {column.name for column in fields(kind) if column.init}
    try:
        if set(given) != names:
            raise ValueError(f"its fields are {sorted(names)}")
        made = kind(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the header's {what} {short(recorded)} cannot be: {error}") from error
    if any(getattr(made, name) != value for name, value in given.items()):
        raise ValueError(f"the header's {what} {short(recorded)} reads {made} when it is made.")
    return made


def _of_text(written: str) -> Policy | None:
    """The policy that its text, such as "SSP(bound=3)", stands for; None if it is none of ours."""
    try:
        call = ast.parse(written, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            return None
        given = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return _made(ALL_POLICIES, {"type": call.func.id, **given}, "policy")
